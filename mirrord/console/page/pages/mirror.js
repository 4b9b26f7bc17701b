// @ts-check
// One mirror: what it is, how it does, and its sessions.
import { ask, at } from '../api.js'
import { causeText, clock, destinationText, directionText, scaled, share, sourceText } from '../format.js'
import { html, useEffect, useState } from '../html.js'
import { live, refresh } from '../live.js'
import { mirrorHealth, rowHealth, sums } from '../health.js'
import { changeable, definedText } from '../origin.js'
import { Button, Confirm, Empty, Head, Link, Notice, State, hash, say } from '../parts.js'
import { Table } from '../table.js'
import { plural, t } from '../words.js'
import { Ahead, MirrorActions } from './mirror_actions.js'
import { SessionForm } from './session_form.js'

/** @param {{name: string, session?: string}} props */
export function Mirror({ name, session }) {
  const { mirrors, lost } = live.use()
  const [open, setOpen] = useState(/** @type {{what: string, session?: any} | null} */ (null))
  useEffect(() => { if (session === '+') { setOpen({ what: 'form' }); history.replaceState(null, '', hash('mirrors', name)) } }, [session])
  if (mirrors === null) return html`<${Head} title=${name} />`
  const mirror = mirrors.find((one) => one.name === name)
  if (!mirror) return html`<${Head} title=${name} /><${Empty}><p>${t('There is no port mirroring of this name (any more).')}</p><${Link} to=${['mirrors']}>${t('Port mirroring')}<//><//>`
  const health = mirrorHealth(mirror, lost)
  const changes = changeable(mirror.origin)
  const rows = mirror.sessions.map((/** @type {any} */ one) => ({ ...one, ...sums(one.running), health: sessionHealth(mirror, one, lost) }))
  const close = () => setOpen(null)
  return html`<${Head} title=${name} lead=${mirror.description}><${MirrorActions} mirror=${mirror} /><${Link} to=${['audit', name]}>${t('Audit')}<//><//>
    <dl class="facts">
      <dt>${t('State')}</dt><dd><${State} kind=${health.kind}>${health.word}<//> ${health.why && html`<span class="quiet">${health.why}</span>`}</dd>
      ${mirror.flow_network && html`<dt>${t('Flow network')}</dt><dd><${Link} to=${['networks']}>${mirror.flow_network}<//></dd>`}
      ${mirror.expires && html`<dt>${t('Ends')}</dt><dd>${clock(mirror.expires)}</dd>`}
      <dt>${t('Defined')}</dt><dd>${definedText(mirror.origin)}</dd>
    </dl>
    <section><div class="bar"><h2>${t('Sessions')}</h2>${changes && html`<${Button} kind="primary" onClick=${() => setOpen({ what: 'form' })}>${t('Add session')}<//>`}</div>
    ${mirror.sessions.length === 0 ? html`<${Empty}>${t('A port mirroring without a session copies nothing.')}<//>` : html`
    <${Table} label=${t('Sessions')} rows=${rows} rowKey=${(/** @type {any} */ one) => one.name} columns=${[
      { key: 'name', title: t('Name'), cell: (/** @type {any} */ one) => html`<span title=${one.description}>${one.name}</span>`, order: (/** @type {any} */ one) => one.name },
      { key: 'state', title: t('State'), cell: (/** @type {any} */ one) => html`<${State} kind=${one.health.kind} title=${one.health.why}>${one.health.word}<//>`, order: (/** @type {any} */ one) => one.health.kind },
      { key: 'direction', title: t('Type'), cell: (/** @type {any} */ one) => directionText(one.direction) },
      { key: 'source', title: t('Source port'), cell: (/** @type {any} */ one) => html`<${Source} session=${one} />`, order: (/** @type {any} */ one) => sourceText(one.source) },
      { key: 'destination', title: t('Destination port'), cell: (/** @type {any} */ one) => html`<span title=${destinationText(one.destination)}>${destinationText(one.destination)}</span>`, order: (/** @type {any} */ one) => destinationText(one.destination) },
      { key: 'filter', title: t('Filter'), cell: (/** @type {any} */ one) => one.filter ? html`<${Link} to=${['filters', one.filter]}>${one.filter}<//>` : html`<span class="quiet">${t('none')}</span>` },
      { key: 'frames', title: t('Frames/s'), number: true, cell: (/** @type {any} */ one) => scaled(one.frames), order: (/** @type {any} */ one) => one.frames },
      { key: 'bits', title: t('Sent'), number: true, cell: (/** @type {any} */ one) => scaled(one.bits, 'bit/s'), order: (/** @type {any} */ one) => one.bits },
      { key: 'lost', title: t('Lost'), number: true, cell: (/** @type {any} */ one) => html`<span title=${Object.entries(one.causes).map(([cause, n]) => `${causeText(cause)}: ${n}`).join('; ')}>${share(one.dropped, one.captured)}</span>`, order: (/** @type {any} */ one) => one.dropped },
      { key: 'actions', title: t('Operations'), hidden: true, cell: (/** @type {any} */ one) => changes && html`<div class="actions">
        <${Button} small onClick=${() => setOpen({ what: 'form', session: one })} aria-label=${t('Change {name}', { name: one.name })}>${t('Change')}<//>
        <${Button} small onClick=${() => setOpen({ what: 'delete', session: one })} aria-label=${t('Delete {name}', { name: one.name })}>${t('Delete')}<//></div>` },
    ]} />
    ${rows.filter((/** @type {any} */ one) => one.health.kind === 'bad' || one.health.kind === 'wait').slice(0, 5).map((/** @type {any} */ one) => html`<p><${Notice} kind=${one.health.kind}>${one.name}: ${one.health.why}<//></p>`)}`}
    </section>
    ${open?.what === 'form' && html`<${SessionForm} mirror=${mirror} session=${open.session} onClose=${close} />`}
    ${open?.what === 'delete' && html`<${Confirm} title=${t('Delete session {name}', { name: open.session.name })} action=${t('Delete')} danger onClose=${close}
      does=${[t('It stops copying at once. The other sessions go on.'), t('Its counters are forgotten. This cannot be undone.')]} ahead=${html`<${Ahead} method="DELETE" path=${at('mirrors', name, 'sessions', open.session.name)} />`}
      run=${async () => { await ask('DELETE', at('mirrors', name, 'sessions', open.session.name)); await refresh(); say(t('{name} was deleted.', { name: open.session.name })) }} />`}`
}

/** @param {any} mirror @param {any} session @param {Map<string, number>} lost */
const sessionHealth = (mirror, session, lost) => session.enabled === false
  ? { kind: 'off', word: t('disabled'), why: '' }
  : session.running.length > 0 && !mirror.enabled ? { kind: 'off', word: t('disabled'), why: '' }
  : session.running.length === 1 ? rowHealth(session.running[0], lost) : mirrorHealth({ ...mirror, sessions: [session] }, lost)

/** @param {{session: any}} props */
const Source = ({ session }) => {
  const names = session.running.filter((/** @type {any} */ one) => one.side !== 'destination').map((/** @type {any} */ one) => one.source)
  const text = sourceText(session.source)
  const more = names.length > 1 ? plural(names.length, '1 device', '{n} devices') : names[0] && names[0] !== text ? names[0] : ''
  return html`<span title=${names.join(', ')}>${text}</span>${more && html`<span class="sub">${more}</span>`}`
}
