// @ts-check
// Who did what, when, with what result; the newest first.
import { ask, at, hostTime } from '../api.js'
import { clock } from '../format.js'
import { html, useEffect, useState } from '../html.js'
import { live } from '../live.js'
import { Button, Choice, Dialog, Head, Problem, State, useAttempt } from '../parts.js'
import { Table } from '../table.js'
import { t } from '../words.js'

const MOST = 2000
const SPANS = [['', 0], ['1 h', 3600], ['24 h', 86400], ['7 d', 604800]]

/** What an operation is called. @param {string} operation */
export const operationText = (operation) => (/** @type {Record<string, string>} */ ({
  create: t('create'), replace: t('replace'), change: t('change'), rename: t('rename'), enable: t('enable'),
  disable: t('disable'), delete: t('delete'), reload: t('reload'), apply: t('apply'),
})[operation] ?? operation)

/** @param {string} kind */
const kindText = (kind) => (/** @type {Record<string, string>} */ ({
  mirror: t('port mirroring'), session: t('session'), filter: t('filter'), flow_network: t('flow network'), daemon: t('daemon'),
})[kind] ?? kind)

/** @param {{rest: string[]}} props */
export function Audit({ rest }) {
  const [rows, setRows] = useState(/** @type {any[] | null} */ (null))
  const [sought, setSought] = useState({ mirror: rest[0] ?? '', span: '' })
  const [open, setOpen] = useState(/** @type {any} */ (null))
  const { mirrors, changed } = live.use()
  const { problem, attempt } = useAttempt()
  const look = () => attempt(async () => {
    const query = new URLSearchParams({ limit: String(MOST) })
    if (sought.mirror) query.set('mirror', sought.mirror)
    const span = SPANS.find(([name]) => name === sought.span)
    if (span && span[1]) query.set('since', String(hostTime() / 1000 - Number(span[1])))
    const { audit } = (await ask('GET', `${at('audit')}?${query}`)).body
    setRows(audit.map((/** @type {any} */ row, /** @type {number} */ index) => ({ ...row, index })).reverse())
  })
  useEffect(() => void look(), [sought, changed])
  const names = [...new Set([...(mirrors ?? []).map((one) => one.name), ...(rows ?? []).map((one) => one.mirror), sought.mirror])].filter(Boolean)
  return html`<${Head} title=${t('Audit')} lead=${t('Who did what, when, with what result; refusals too.')}><${Button} onClick=${look}>${t('Look again')}<//><//>
    <div class="bar">
      <${Choice} label=${t('Port mirroring')} value=${sought.mirror} onValue=${(/** @type {string} */ mirror) => setSought({ ...sought, mirror })} options=${[{ value: '', label: t('all') }, ...names.map((name) => ({ value: name, label: name }))]} />
      <${Choice} label=${t('Of the last')} value=${sought.span} onValue=${(/** @type {string} */ span) => setSought({ ...sought, span })} options=${SPANS.map(([name]) => ({ value: String(name), label: String(name) || t('whole time') }))} />
    </div>
    <${Problem} of=${problem} />
    ${rows && html`<${Table} label=${t('Audit')} rows=${rows} rowKey=${(/** @type {any} */ one) => `${one.time}-${one.index}`} columns=${[
      { key: 'time', title: t('Time'), cell: (/** @type {any} */ one) => clock(one.time) },
      { key: 'who', title: t('Who'), cell: (/** @type {any} */ one) => html`<span title=${`uid ${one.uid}, gid ${one.gid}, pid ${one.pid}`}>${one.user || one.uid}${one.host && `@${one.host}`}</span>` },
      { key: 'operation', title: t('Operation'), cell: (/** @type {any} */ one) => operationText(one.operation) },
      { key: 'kind', title: t('Of'), cell: (/** @type {any} */ one) => kindText(one.kind) },
      { key: 'object', title: t('Name'), cell: (/** @type {any} */ one) => (one.kind === 'session' ? `${one.mirror}/${one.object}` : one.object) },
      { key: 'result', title: t('Result'), cell: (/** @type {any} */ one) => html`<${State} kind=${one.result === 'done' ? 'ok' : 'bad'}>${one.result === 'done' ? t('done') : t('refused')}<//>` },
      { key: 'message', title: t('Why'), wide: true, cell: (/** @type {any} */ one) => html`<span title=${one.message}>${one.message}</span>` },
      { key: 'more', title: t('Operations'), hidden: true, cell: (/** @type {any} */ one) => html`<div class="actions"><${Button} small onClick=${() => setOpen(one)} aria-label=${t('What changed: {name}', { name: one.object || one.kind })}>${t('What changed')}<//></div>` },
    ]} />`}
    ${open && html`<${Dialog} title=${`${operationText(open.operation)} ${open.object}`} wide onClose=${() => setOpen(null)} actions=${html`<${Button} onClick=${() => setOpen(null)}>${t('Close')}<//>`}>
      <div class="columns"><div><h3>${t('Before')}</h3><pre tabindex="0">${open.old === null ? t('nothing') : JSON.stringify(open.old, null, 2)}</pre></div>
      <div><h3>${t('After')}</h3><pre tabindex="0">${open.new === null ? t('nothing') : JSON.stringify(open.new, null, 2)}</pre></div></div><p></p><//>`}`
}
