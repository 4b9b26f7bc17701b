// @ts-check
// The fields of a session, by the API's description: the usual ones with words, all others folded away by their keys.
import { Fragment, html } from './html.js'
import { Choice, Text } from './parts.js'
import { shapeOf } from './schema.js'
import { t } from './words.js'

/** The usual keys of each kind, as far as it has them (`host` is a cluster's); a kind that is not here has those that it requires. */
export const USUAL = /** @type {Record<string, Record<string, string[]>>} */ ({
  source: {
    device: ['host', 'device', 'vlan', 'perspective'],
    bridge: ['host', 'bridge', 'vlan'],
    vm: ['vm', 'nic'],
    container: ['host', 'container', 'nic'],
    vxlan: ['local', 'port', 'vni'],
    geneve: ['local', 'port', 'vni'],
    gre: ['local', 'key'],
    erspan: ['local', 'session_id'],
    tzsp: ['local', 'port'],
  },
  destination: {
    device: ['host', 'device', 'vlan'],
    vm: ['vm', 'nic'],
    vxlan: ['remote', 'vni', 'port'],
    geneve: ['remote', 'vni', 'port'],
    gre: ['remote', 'key'],
    erspan: ['remote', 'erspan_type', 'session_id'],
    file: ['path', 'rotate_size', 'keep'],
    pcap: ['remote', 'port', 'listen'],
  },
})

/** @param {string} kind */
export const kindLabel = (kind) => (/** @type {Record<string, string>} */ ({
  device: t('Device'), vm: t('VM instance'), container: t('Container'), bridge: t('Bridge'), file: t('File'),
})[kind] ?? kind.toUpperCase())

/** @param {string} key */
export const keyLabel = (key) => (/** @type {Record<string, string>} */ ({
  device: t('Device'), host: t('Host'), vm: t('VM instance'), nic: t('NIC'), container: t('Container'), bridge: t('Bridge'),
  remote: t('Address'), local: t('Address here'), port: t('Port'), path: t('Path'), perspective: t('Seen by'),
  vlan: 'VLAN', vni: 'VNI', listen: t('Listens at'),
})[key] ?? key)

/** @param {any} value @returns {any} as a person writes it */
export const written = (value) => value === null || value === undefined ? '' : Array.isArray(value) ? value.join(', ')
  : typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([key, one]) => [key, written(one)])) : String(value)

/**
 * What is written, without what is left empty. Commas part the values of a list, but for a name that has some itself.
 * @param {any} form @param {any} [shapes] a property's schema by key @param {any} [schemas] @param {Set<string>} [names] @returns {any}
 */
export function built(form, shapes = {}, schemas = {}, names = new Set()) {
  const made = /** @type {Record<string, any>} */ ({})
  for (const [key, value] of Object.entries(form)) {
    if (typeof value === 'object') {
      const inner = built(value, schemas && shapes[key] ? shapeOf(shapes[key], schemas).table?.properties : {}, schemas, names)
      if (Object.keys(inner).length) made[key] = inner
    } else if (value.trim() !== '') {
      const list = shapes[key] && shapeOf(shapes[key], schemas).shape === 'list' && value.includes(',') && !names.has(value.trim())
      made[key] = list ? value.split(',').map((/** @type {string} */ one) => one.trim()).filter(Boolean) : value.trim()
    }
  }
  return made
}

/**
 * Keys of an object, each with what is said of it; for columns.
 * @param {{keys: string[], properties: any, schemas: any, form: any, onForm: (form: any) => void, told: (key: string) => any,
 *          path?: string, required?: string[], suggestions?: Record<string, {value: string, label?: string}[]>}} props
 */
export function Fields({ keys, properties, schemas, form, onForm, told, path = '', required = [], suggestions = {} }) {
  return keys.filter((key) => properties[key]).map((key) => {
    const { shape, words = [], table } = shapeOf(properties[key], schemas)
    const common = { key, label: keyLabel(key), required: required.includes(key), ...told(`${path}${key}`) }
    const set = (/** @type {any} */ value) => onForm({ ...form, [key]: value })
    if (shape === 'table') {
      return html`<${Fragment} key=${key}>${Object.keys(table.properties).map((inner) => html`<${Fields} key=${inner} keys=${[inner]} properties=${{ [inner]: table.properties[inner] }}
        schemas=${schemas} form=${prefixed(form[key] ?? {}, inner)} onForm=${(/** @type {any} */ one) => set({ ...(form[key] ?? {}), ...one })} told=${told} path="${path}${key}." />`)}<//>`
    }
    if (shape === 'words') {
      const options = [{ value: '', label: t('default') }, ...words.map((/** @type {string} */ one) => ({ value: one, label: one }))]
      return html`<${Choice} ...${common} value=${form[key] ?? ''} options=${options} onValue=${set} />`
    }
    return html`<${Text} ...${common} value=${form[key] ?? ''} options=${suggestions[key]} onValue=${set} />`
  })
}

/** @param {any} form @param {string} key */
const prefixed = (form, key) => ({ [key]: form[key] ?? '' })
