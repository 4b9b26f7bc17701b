// @ts-check
// A source port or a destination port: its kind, and for devices, VMs and containers what is there to be picked.
import { Fields, kindLabel, USUAL } from '../fields.js'
import { scaled } from '../format.js'
import { Fragment, html } from '../html.js'
import { Choice } from '../parts.js'
import { kindsOf } from '../schema.js'
import { t } from '../words.js'

const ORDER = ['device', 'vm', 'container', 'bridge']

/** @param {{side: 'source' | 'destination', title: string, form: any, set: (changes: any) => void, schemas: any, told: (key: string) => any, sources: any[]}} props */
export function Port({ side, title, form, set, schemas, told, sources }) {
  const kinds = kindsOf(schemas, side)
  const port = form[side]
  const schema = kinds.get(port.type)
  const names = [...kinds.keys()].sort((one, other) => (ORDER.indexOf(one) + 1 || 9) - (ORDER.indexOf(other) + 1 || 9))
  const usual = USUAL[side][port.type] ?? schema?.required ?? []
  const rest = Object.keys(schema?.properties ?? {}).filter((key) => key !== 'type' && !usual.includes(key))
  const common = { properties: schema?.properties ?? {}, schemas, form: port, path: `${side}.`, required: schema?.required, told }
  const wrong = rest.some((key) => told(`${side}.${key}`).problems.length)
  return html`<fieldset><legend>${title}</legend>
    <div class="columns">
    <${Choice} label=${t('Kind')} value=${port.type} ...${told(`${side}.type`)} onValue=${(/** @type {string} */ type) => set({ [side]: { type } })}
      options=${names.map((name) => ({ value: name, label: kindLabel(name) }))} />
    ${port.type === 'vm' || port.type === 'container' ? html`<${Guest} ...${{ side, port, set, told, sources }} />`
      : html`<${Fields} keys=${usual} onForm=${(/** @type {any} */ one) => set({ [side]: one })} suggestions=${{ device: devices(sources), bridge: devices(sources, 'bridge') }} ...${common} />`}
    </div>
    ${rest.length > 0 && html`<details open=${wrong}><summary>${t('More about the port')}</summary>
      <div class="columns"><${Fields} keys=${rest} onForm=${(/** @type {any} */ one) => set({ [side]: one })} ...${common} /></div></details>`}
  </fieldset>`
}

/** @param {any[]} sources @param {string} [kind] */
const devices = (sources, kind) => sources.filter((one) => one.device && (!kind || one.kind === kind)).map((one) => ({
  value: one.device,
  label: [one.kind, one.state, one.guest && `${one.guest.name} nic ${one.guest.nic}`, one.master && t('port of {bridge}', { bridge: one.master }), `${scaled(one.frames_per_second)} ${t('frames/s')}`].filter(Boolean).join(', '),
}))

/** A VM or container, then its NIC. @param {{side: string, port: any, set: (changes: any) => void, told: (key: string) => any, sources: any[]}} props */
function Guest({ side, port, set, told, sources }) {
  const nics = sources.filter((one) => one.guest?.type === port.type)
  const names = [...new Set([...nics.map((one) => one.guest.name), ...(port[port.type] ? [port[port.type]] : [])])]
  const own = nics.filter((one) => one.guest.name === port[port.type])
  const known = own.map((one) => ({ value: String(port.type === 'vm' ? one.guest.nic : one.guest.nic_name || one.guest.nic), label: nicText(one) }))
  if (port.nic && !known.some((one) => one.value === port.nic)) known.push({ value: port.nic, label: port.nic })
  const all = side === 'source' && !known.some((one) => one.value === '*') ? [{ value: '*', label: t('all of them') }] : []
  /** @param {any} changes */
  const change = (changes) => set({ [side]: { ...port, ...changes } })
  return html`<${Fragment}>
    <${Choice} label=${kindLabel(port.type)} required value=${port[port.type] ?? ''} ...${told(`${side}.${port.type}`)} onValue=${(/** @type {string} */ name) => change({ [port.type]: name, nic: '' })}
      options=${[{ value: '', label: names.length ? t('Choose') : t('none is known here') }, ...names.map((name) => ({ value: name, label: name }))]} />
    <${Choice} label=${t('NIC')} required value=${port.nic ?? ''} ...${told(`${side}.nic`)} onValue=${(/** @type {string} */ nic) => change({ nic })}
      options=${[{ value: '', label: t('Choose') }, ...known, ...all]} />
  <//>`
}

/** @param {any} one */
const nicText = (one) => [`${one.guest.nic}`, one.guest.nic_name, one.guest.mac, one.device, one.state].filter(Boolean).join(', ')
