// @ts-check
// The hosts of a cluster: which live, what each runs of it, and how far each is.
import { about } from '../about.js'
import { ask, at } from '../api.js'
import { clock } from '../format.js'
import { html, useState } from '../html.js'
import { live, refresh } from '../live.js'
import { Button, Confirm, Head, Notice, State, say } from '../parts.js'
import { Table } from '../table.js'
import { t } from '../words.js'
import { Connection } from './connection.js'
import { Ahead } from './mirror_actions.js'

/** How a host does. @param {any} one */
const healthOf = (one) => !one.alive ? { kind: 'bad', word: t('away') } : one.problem || one.unread.length ? { kind: 'bad', word: t('failed') }
  : one.behind ? { kind: 'wait', word: t('behind') } : { kind: 'ok', word: t('up to date') }

export function Hosts() {
  const { status } = live.use()
  const { read_only } = about.use()
  const [gone, setGone] = useState(/** @type {any} */ (null))
  if (!status) return html`<${Head} title=${t('Hosts')} />`
  const { cluster, hosts, unread } = status
  return html`<${Head} title=${t('Hosts')} lead=${t('Packets, charts, the doctor and what can be mirrored are of each host: mirrorctl console there shows them.')} />
    <${Connection} cluster=${cluster} />
    ${unread.map((/** @type {any} */ one) => html`<${Notice} kind="bad">${t('cannot be used: {path}: {message}', one)}<//>`)}
    <${Table} label=${t('Hosts')} rows=${hosts} rowKey=${(/** @type {any} */ one) => one.host} columns=${[
      { key: 'host', title: t('Host'), cell: (/** @type {any} */ one) => one.host, order: (/** @type {any} */ one) => one.host },
      { key: 'state', title: t('State'), cell: (/** @type {any} */ one) => html`<${State} kind=${healthOf(one).kind}>${healthOf(one).word}<//>` },
      { key: 'up', title: t('Running'), number: true, cell: (/** @type {any} */ one) => `${one.up} / ${one.sessions}`, order: (/** @type {any} */ one) => one.sessions },
      { key: 'addresses', title: t('Address in use'), cell: (/** @type {any} */ one) => html`<span class="mono">${Object.entries(one.addresses).map((pair) => pair.join(' ')).join(', ')}</span>` },
      { key: 'since', title: t('Since'), cell: (/** @type {any} */ one) => one.since ? clock(one.since * 1000) : '' },
      { key: 'mirrord', title: t('Version'), cell: (/** @type {any} */ one) => one.mirrord },
      { key: 'why', title: t('Why'), wide: true, cell: (/** @type {any} */ one) => { const why = [one.problem, ...one.unread.map((/** @type {any} */ each) => `${each.path}: ${each.message}`)].filter(Boolean).join('; '); return html`<span title=${why}>${why}</span>` } },
      { key: 'actions', title: t('Operations'), hidden: true, cell: (/** @type {any} */ one) => !one.alive && cluster.connected && !read_only && html`<div class="actions"><${Button} small aria-label=${t('Forget {name}', { name: one.host })} onClick=${() => setGone(one)}>${t('Forget')}<//></div>` },
    ]} />
    ${gone && html`<${Confirm} title=${t('Forget {name}', { name: gone.host })} action=${t('Forget')} danger onClose=${() => setGone(null)}
      does=${[t('Its addresses are free for others. Only for a host that does not come back.')]} ahead=${html`<${Ahead} method="DELETE" path=${at('hosts', gone.host)} />`}
      run=${async () => { await ask('DELETE', at('hosts', gone.host)); await refresh(); say(t('{name} was forgotten.', { name: gone.host })) }} />`}`
}
