// @ts-check
// Port mirroring: every mirror, and one of them with its sessions.
import { about } from '../about.js'
import { ask, at } from '../api.js'
import { useCheck } from '../check.js'
import { scaled, share, sourceText, destinationText } from '../format.js'
import { html, useState } from '../html.js'
import { live, refresh } from '../live.js'
import { mirrorHealth, sums } from '../health.js'
import { Button, Check, Choice, Dialog, Empty, Head, Link, Notice, Problem, State, Text, hash, say, useAttempt } from '../parts.js'
import { Table } from '../table.js'
import { t } from '../words.js'
import { useList } from '../objects.js'
import { Tag } from '../origin.js'
import { Mirror } from './mirror.js'
import { MirrorActions } from './mirror_actions.js'

/** @param {{rest: string[]}} props */
export const Mirrors = ({ rest }) => rest.length ? html`<${Mirror} key=${rest[0]} name=${rest[0]} session=${rest[1]} />` : html`<${List} />`

function List() {
  const { mirrors, lost } = live.use()
  const [sought, setSought] = useState('')
  const [creates, setCreates] = useState(false)
  const { read_only } = about.use()
  const shown = (mirrors ?? []).filter((one) => matches(one, sought)).map((mirror) => {
    const rows = mirror.sessions.flatMap((/** @type {any} */ one) => one.running)
    return { ...mirror, health: mirrorHealth(mirror, lost), ...sums(rows) }
  })
  return html`<${Head} title=${t('Port mirroring')} lead=${t('A port mirroring is a group of sessions that is enabled, disabled and deleted together.')}>
      ${!read_only && html`<${Button} kind="primary" onClick=${() => setCreates(true)}>${t('Create port mirroring')}<//>`}
    <//>
    ${mirrors?.length === 0 && html`<${Empty}><p>${t('There is no port mirroring yet.')}</p><//>`}
    ${Boolean(mirrors?.length) && html`
    <div class="bar"><input type="search" aria-label=${t('Search')} placeholder=${t('Search names, descriptions, sources, destinations')} size="48"
      value=${sought} onInput=${(/** @type {any} */ event) => setSought(event.target.value)} /></div>
    <${Table} label=${t('Port mirroring')} rows=${shown} rowKey=${(/** @type {any} */ one) => one.name} columns=${[
      { key: 'name', title: t('Name'), cell: (/** @type {any} */ one) => html`<${Link} to=${['mirrors', one.name]}>${one.name}<//> <${Tag} origin=${one.origin} />`, order: (/** @type {any} */ one) => one.name },
      { key: 'state', title: t('State'), cell: (/** @type {any} */ one) => html`<${State} kind=${one.health.kind} title=${one.health.why}>${one.health.word}<//>`, order: (/** @type {any} */ one) => one.health.kind },
      { key: 'description', title: t('Description'), wide: true, cell: (/** @type {any} */ one) => html`<span title=${one.description}>${one.description}</span>` },
      { key: 'network', title: t('Flow network'), cell: (/** @type {any} */ one) => one.flow_network ?? '' },
      { key: 'sessions', title: t('Sessions'), number: true, cell: (/** @type {any} */ one) => one.sessions.length, order: (/** @type {any} */ one) => one.sessions.length },
      { key: 'frames', title: t('Frames/s'), number: true, cell: (/** @type {any} */ one) => scaled(one.frames), order: (/** @type {any} */ one) => one.frames },
      { key: 'lost', title: t('Lost'), number: true, cell: (/** @type {any} */ one) => share(one.dropped, one.captured), order: (/** @type {any} */ one) => one.dropped },
      { key: 'actions', title: t('Operations'), hidden: true, cell: (/** @type {any} */ one) => html`<${MirrorActions} mirror=${one} few />` },
    ]} />`}
    ${creates && html`<${Create} onClose=${() => setCreates(false)} taken=${(mirrors ?? []).map((one) => one.name)} />`}`
}

/** @param {any} mirror @param {string} sought */
function matches(mirror, sought) {
  const words = sought.toLowerCase().split(/\s+/).filter(Boolean)
  if (!words.length) return true
  const said = [mirror.name, mirror.description, mirror.flow_network, ...mirror.sessions.flatMap((/** @type {any} */ one) => [
    one.name, one.description, sourceText(one.source), destinationText(one.destination), one.filter,
  ])].join(' ').toLowerCase()
  return words.every((word) => said.includes(word))
}

/** @param {{onClose: () => void, taken: string[]}} props */
function Create({ onClose, taken }) {
  const [form, setForm] = useState({ name: '', description: '', flow_network: '', enabled: true, add: true })
  const [tried, setTried] = useState(false)
  const networks = useList('flow_networks')
  const { busy, problem, attempt } = useAttempt()
  const body = { description: form.description, enabled: form.enabled, ...(form.flow_network && { flow_network: form.flow_network }) }
  const name = form.name.trim()
  const checked = useCheck(['mirrors', name || 'new'], body)
  const naming = name ? (checked.problems[''] ?? []) : tried ? [t('A name is needed.')] : []
  if (taken.includes(name)) naming.push(t('There is one of this name already.'))
  const general = Object.entries(checked.problems).filter(([key]) => !['', 'description', 'flow_network'].includes(key)).flatMap(([, told]) => told)
  /** @param {any} changes */
  const set = (changes) => setForm({ ...form, ...changes })
  const create = () => {
    setTried(true)
    if (!name || naming.length) return
    attempt(async () => {
      await ask('PUT', at('mirrors', name), body, { 'If-None-Match': '*' })
      await refresh()
      say(t('{name} was created.', { name }))
      onClose()
      location.hash = form.add ? hash('mirrors', name, '+') : hash('mirrors', name)
    })
  }
  return html`<${Dialog} title=${t('Create port mirroring')} onClose=${onClose} onSubmit=${create} actions=${html`
      <${Button} onClick=${onClose}>${t('Cancel')}<//><${Button} type="submit" kind="primary" busy=${busy}>${t('OK')}<//>`}>
    <${Text} label=${t('Name')} required value=${form.name} onValue=${(/** @type {string} */ one) => set({ name: one })} problems=${naming} />
    <${Text} label=${t('Description')} value=${form.description} onValue=${(/** @type {string} */ one) => set({ description: one })} problems=${checked.problems.description} help=${t('May be left empty.')} />
    <${Choice} label=${t('Flow network')} value=${form.flow_network} onValue=${(/** @type {string} */ one) => set({ flow_network: one })} problems=${checked.problems.flow_network}
      options=${[{ value: '', label: t('none: copies leave as the host routes them') }, ...(networks ?? []).map((/** @type {any} */ one) => ({ value: one.name, label: `${one.name} (${[one.device, one.addresses].filter(Boolean).join(', ')})` }))]}
      help=${t('A flow network is for copies alone; one port mirroring uses it.')} />
    <${Check} label=${t('Enable immediately after creation')} value=${form.enabled} onValue=${(/** @type {boolean} */ one) => set({ enabled: one })}
      help=${t('Copies may take bandwidth of the physical network: see that your services can spare it.')} />
    <${Check} label=${t('Add session immediately after creation')} value=${form.add} onValue=${(/** @type {boolean} */ one) => set({ add: one })}
      help=${t('A session copies what one NIC sends and receives. A port mirroring may have several.')} />
    ${general.map((one) => html`<${Notice} kind="bad">${one}<//>`)}
    <${Problem} of=${problem} />
  <//>`
}
