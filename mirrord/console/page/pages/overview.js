// @ts-check
// Is every mirror complete? A line a mirror, and a picture of what goes where.
import { about } from '../about.js'
import { html } from '../html.js'
import { live, rowsOf } from '../live.js'
import { mirrorHealth, sums } from '../health.js'
import { causeText, scaled, share } from '../format.js'
import { Empty, Head, Link, Notice, State } from '../parts.js'
import { Table } from '../table.js'
import { plural, t } from '../words.js'
import { Connection } from './connection.js'
import { Flow } from './flow.js'

/** @param {any[]} mirrors @param {Map<string, number>} lost */
function verdict(mirrors, lost) {
  const kinds = mirrors.map((one) => mirrorHealth(one, lost).kind)
  /** @param {string} kind */
  const count = (kind) => kinds.filter((one) => one === kind).length
  const [bad, wait, warn, running] = [count('bad'), count('wait'), count('warn'), kinds.length - count('off')]
  if (bad) return html`<${Notice} kind="bad"><strong>${t('Mirrors that are not complete: {n} of {all}.', { n: bad, all: running })}</strong><//>`
  if (wait) return html`<${Notice} kind="wait"><strong>${t('Mirrors that wait for something: {n} of {all}.', { n: wait, all: running })}</strong><//>`
  if (warn) return html`<${Notice} kind="warn"><strong>${t('Mirrors that have lost frames, none within the last minute: {n} of {all}.', { n: warn, all: running })}</strong><//>`
  if (running) return html`<${Notice} kind="ok"><strong>${t('Every mirror is complete.')}</strong> ${t('Nothing that should have been mirrored was lost.')}<//>`
  return html`<${Notice}>${t('Nothing is mirrored: no mirror is enabled.')}<//>`
}

/** @param {{causes: Record<string, number>}} props */
const Causes = ({ causes }) => {
  const told = Object.entries(causes).sort((one, other) => other[1] - one[1])
  return told.map(([cause, count]) => `${causeText(cause)} (${scaled(count)})`).join('; ')
}

export function Overview() {
  const { mirrors, status, lost } = live.use()
  const { read_only } = about.use()
  if (mirrors === null) return html`<${Head} title=${t('Overview')} />`
  const all = sums(rowsOf(mirrors))
  const lines = mirrors.map((mirror) => {
    const rows = mirror.sessions.flatMap((/** @type {any} */ one) => one.running)
    return { mirror, rows, health: mirrorHealth(mirror, lost), ...sums(rows) }
  })
  return html`<${Head} title=${t('Overview')} lead=${t('Is every mirror complete?')} />
    ${status && html`<${Connection} cluster=${status.cluster} />`}
    ${mirrors.length === 0 ? html`<${Empty}><p>${t('There is no port mirroring yet.')}</p>${!read_only && html`<${Link} to=${['mirrors']}>${t('Create port mirroring')}<//>`}<//>` : html`
    ${verdict(mirrors, lost)}
    <dl class="cards">
      <div class="card"><dt>${t('Mirrored')}</dt><dd>${scaled(all.frames)} <small>${t('frames/s')}</small></dd></div>
      <div class="card"><dt>${t('Sent')}</dt><dd>${scaled(all.bits, 'bit/s')}</dd></div>
      <div class="card"><dt>${t('Lost of all captured')}</dt><dd>${share(all.dropped, all.captured)}</dd></div>
      <div class="card"><dt>${t('Running')}</dt><dd>${all.up} <small>${plural(all.sources, 'of 1 source', 'of {n} sources')}</small></dd></div>
    </dl>
    <${Table} label=${t('Mirrors')} rows=${lines} rowKey=${(/** @type {any} */ one) => one.mirror.name} columns=${[
      { key: 'name', title: t('Port mirroring'), cell: (/** @type {any} */ one) => html`<${Link} to=${['mirrors', one.mirror.name]}>${one.mirror.name}<//>`, order: (/** @type {any} */ one) => one.mirror.name },
      { key: 'state', title: t('State'), cell: (/** @type {any} */ one) => html`<${State} kind=${one.health.kind}>${one.health.word}<//>`, order: (/** @type {any} */ one) => one.health.kind },
      { key: 'frames', title: t('Frames/s'), number: true, cell: (/** @type {any} */ one) => scaled(one.frames), order: (/** @type {any} */ one) => one.frames },
      { key: 'bits', title: t('Sent'), number: true, cell: (/** @type {any} */ one) => scaled(one.bits, 'bit/s'), order: (/** @type {any} */ one) => one.bits },
      { key: 'lost', title: t('Lost'), number: true, cell: (/** @type {any} */ one) => share(one.dropped, one.captured), order: (/** @type {any} */ one) => one.dropped },
      { key: 'skipped', title: t('Left out on purpose'), number: true, cell: (/** @type {any} */ one) => scaled(one.skipped), order: (/** @type {any} */ one) => one.skipped },
      { key: 'why', title: t('Why'), wide: true, cell: (/** @type {any} */ one) => html`<span title=${one.health.why}>${Object.keys(one.causes).length ? html`<${Causes} causes=${one.causes} />` : one.health.why}</span>` },
    ]} />
    <section><h2>${t('What goes where')}</h2><${Flow} mirrors=${mirrors} lost=${lost} /></section>`}`
}
