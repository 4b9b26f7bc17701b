// @ts-check
// A source port or a destination port: its kind, and for devices, VMs and containers what is there to be picked.
import { Fields, kindLabel, USUAL } from '../fields.js'
import { scaled } from '../format.js'
import { Fragment, html, useState } from '../html.js'
import { Choice, Notice } from '../parts.js'
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
  /** @param {string[]} keys */
  const fields = (keys) => html`<${Fields} keys=${keys} onForm=${(/** @type {any} */ one) => set({ [side]: one })} suggestions=${{ device: devices(sources), bridge: devices(sources, 'bridge') }} ...${common} />`
  return html`<fieldset><legend>${title}</legend>
    <div class="columns">
    <${Choice} label=${t('Kind')} value=${port.type} ...${told(`${side}.type`)} onValue=${(/** @type {string} */ type) => set({ [side]: { type } })}
      options=${names.map((name) => ({ value: name, label: kindLabel(name) }))} />
    ${port.type in MANAGERS ? html`<${Fragment}>${fields(usual.filter((key) => key === 'host'))}<${Guest} key=${port.type} ...${{ side, port, set, told, sources, fields }} /><//>` : fields(usual)}
    </div>
    ${told(side).problems.map((/** @type {string} */ one) => html`<${Notice} kind="bad">${one}<//>`)}
    ${told(side).warnings.map((/** @type {string} */ one) => html`<${Notice} kind="warn">${one}<//>`)}
    ${rest.length > 0 && html`<details open=${wrong}><summary>${t('More about the port')}</summary>
      <div class="columns"><${Fields} keys=${rest} onForm=${(/** @type {any} */ one) => set({ [side]: one })} ...${common} /></div></details>`}
  </fieldset>`
}

/** @param {any[]} sources @param {string} [kind] */
const devices = (sources, kind) => sources.filter((one) => one.device && (!kind || one.kind === kind)).map((one) => ({
  value: one.device,
  label: [one.kind, one.state, one.guest && `${one.guest.name} nic ${one.guest.nic}`, one.master && t('port of {bridge}', { bridge: one.master }), `${scaled(one.frames_per_second)} ${t('frames/s')}`].filter(Boolean).join(', '),
}))

/** The keys that say where a guest is known, and what need not be said. */
const MANAGERS = /** @type {Record<string, {key: string, usual: string[]}>} */ ({
  vm: { key: 'connection', usual: ['qemu:///system'] },
  container: { key: 'engine', usual: ['podman', 'docker'] },
})

/**
 * A VM or container, then its NIC: of those that are there, or by a name that is written.
 * @param {{side: string, port: any, set: (changes: any) => void, told: (key: string) => any, sources: any[], fields: (keys: string[]) => any}} props
 */
function Guest({ side, port, set, told, sources, fields }) {
  const [writes, setWrites] = useState(false)
  const nics = sources.filter((one) => one.guest?.type === port.type)
  const { key, usual } = MANAGERS[port.type]
  const places = new Map(nics.map(({ guest }) => [JSON.stringify([guest.name, usual.includes(guest.manager) ? '' : guest.manager]), guest]))
  const chosen = port[port.type] ? JSON.stringify([port[port.type], usual.includes(port[key]) || port[key] === 'auto' ? '' : port[key] ?? '']) : ''
  if (writes || !places.size || (chosen && !places.has(chosen))) return fields([port.type, 'nic'])
  const own = nics.filter((one) => one.guest.name === places.get(chosen)?.name && one.guest.manager === places.get(chosen)?.manager)
  const known = own.map((one) => ({ value: String(port.type === 'vm' ? one.guest.nic : one.guest.nic_name || one.guest.nic), label: nicText(one) }))
  if (port.nic && !known.some((one) => one.value === port.nic)) known.push({ value: port.nic, label: port.nic })
  const all = side === 'source' && port.type === 'vm' && port.nic !== '*' ? [{ value: '*', label: t('all of them') }] : []
  /** @param {any} changes */
  const change = (changes) => set({ [side]: { ...port, ...changes } })
  /** @param {string} one */
  const choose = (one) => {
    if (one === WRITTEN) return setWrites(true)
    const [name, manager] = one ? JSON.parse(one) : ['', '']
    change({ [port.type]: name, [key]: manager, nic: '' })
  }
  return html`<${Fragment}>
    <${Choice} label=${kindLabel(port.type)} required value=${chosen} ...${told(`${side}.${port.type}`)} onValue=${choose}
      options=${[{ value: '', label: t('Choose') }, ...[...places].map(([value, guest]) => ({ value, label: guestText(guest, usual) })), { value: WRITTEN, label: t('another, by its name') }]} />
    <${Choice} label=${t('NIC')} required value=${port.nic ?? ''} ...${told(`${side}.nic`)} onValue=${(/** @type {string} */ nic) => change({ nic })}
      options=${[{ value: '', label: t('Choose') }, ...known, ...all]} />
  <//>`
}

const WRITTEN = 'written' // no JSON, as the values of guests are

/** @param {any} guest @param {string[]} usual */
const guestText = (guest, usual) => [guest.name, !guest.runs && t('does not run'), !usual.includes(guest.manager) && guest.manager].filter(Boolean).join(', ')

/** @param {any} one */
const nicText = (one) => [`${one.guest.nic}`, one.guest.nic_name, one.guest.mac, one.device, one.state].filter(Boolean).join(', ')
