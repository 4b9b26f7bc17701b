// @ts-check
// Which rule takes this packet? By the daemon's own meaning of the filter.
import { about } from '../about.js'
import { ask, at } from '../api.js'
import { packetsOf, packetsOfText } from '../capture_file.js'
import { directionText } from '../format.js'
import { html, useState } from '../html.js'
import { Button, Choice, Field, Notice, Problem, State, useAttempt } from '../parts.js'
import { Table } from '../table.js'
import { plural, t } from '../words.js'

const MOST = 200 // packets of a file
const BYTES = 600_000 // of the digits that are sent: the API takes a million

/** @param {{filter: string, unsaved: boolean}} props */
export function Explain({ filter, unsaved }) {
  const [text, setText] = useState('')
  const [direction, setDirection] = useState('ingress')
  const [told, setTold] = useState(/** @type {any} */ (null))
  const [over, setOver] = useState(false)
  const { busy, problem, attempt } = useAttempt()
  const { read_only, cluster } = about.use()
  if (read_only || cluster) return null // an agent explains nothing
  /** @param {any[]} packets */
  const explain = async (packets) => {
    let bytes = 0
    const asked = packets.filter((one) => (bytes += one.data.length) < BYTES).map((one) => ({ direction, ...one }))
    setTold((await ask('POST', at('filters', filter, 'explain'), { packets: asked })).body)
  }
  /** @param {File | undefined} file */
  const drop = (file) => file && attempt(async () => { setTold(null); await explain(packetsOf(await file.arrayBuffer(), MOST)) })
  return html`<section><h2>${t('Which rule takes this packet?')}</h2>
    <div class="drop ${over ? 'over' : ''}" onDragOver=${(/** @type {DragEvent} */ event) => { if (event.dataTransfer?.types.includes('Files')) { event.preventDefault(); setOver(true) } }} onDragLeave=${() => setOver(false)}
      onDrop=${(/** @type {DragEvent} */ event) => { if (event.dataTransfer?.files.length) { event.preventDefault(); setOver(false); drop(event.dataTransfer.files[0]) } }}>
      <${Field} label=${t('A frame in hexadecimal digits, from its Ethernet header on')} help=${t('Or drop a pcap or pcapng file here: up to {n} of its packets are explained.', { n: MOST })}
        control=${(/** @type {any} */ names) => html`<textarea rows="4" spellcheck=${false} value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} ...${names}></textarea>`} />
      <div class="bar">
        <${Choice} label=${t('Direction, where the file does not tell it')} value=${direction} onValue=${setDirection} options=${[{ value: 'ingress', label: t('Ingress') }, { value: 'egress', label: t('Egress') }]} />
        <label class="file button">${t('Choose a file')}<input type="file" class="unseen" accept=".pcap,.pcapng,.cap" onChange=${(/** @type {any} */ event) => drop(event.target.files[0])} /></label>
        <${Button} kind="primary" busy=${busy || !text.trim()} onClick=${() => attempt(() => explain(packetsOfText(text)))}>${t('Explain')}<//>
      </div>
    </div>
    ${unsaved && told && html`<${Notice} kind="warn">${t('By the rules as they are saved, without your changes.')}<//>`}
    <${Problem} of=${problem} />
    ${told && html`<p class="quiet note">${plural(told.totals.packets, '1 packet: {accepted} accepted, {rejected} rejected, {unmatched} matched by no rule and so not copied', '{packets} packets: {accepted} accepted, {rejected} rejected, {unmatched} matched by no rule and so not copied', told.totals)}</p>
    <${Table} label=${t('Which rule takes this packet?')} rows=${told.packets} rowKey=${(/** @type {any} */ one) => String(one.packet)} columns=${[
      { key: 'packet', title: t('Packet'), number: true, cell: (/** @type {any} */ one) => one.packet },
      { key: 'direction', title: t('Direction'), cell: (/** @type {any} */ one) => directionText(one.direction) },
      { key: 'rule', title: t('Rule'), cell: (/** @type {any} */ one) => html`<${State} kind=${one.action === 'accept' ? 'ok' : 'off'}>${one.rule === null ? t('none') : t('rule {n}: {action}', { n: one.rule, action: one.action === 'accept' ? t('accept') : t('reject') })}<//>` },
      { key: 'frame', title: t('Frame'), cell: (/** @type {any} */ one) => html`<span class="mono">${one.frame}</span>` },
      { key: 'why', title: t('Why not the rules before'), wide: true, cell: (/** @type {any} */ one) => { const said = before(one.passed_over); return html`<span title=${said}>${said}</span>` } },
    ]} />`}
  </section>`
}

/** @param {any[]} rules */
const before = (rules) => rules.map((one) => t('rule {rule}: {field} is {found}, not {wanted}', one)).join('; ')
