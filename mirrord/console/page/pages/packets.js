// @ts-check
// Live packets: the last ones that a session mirrors, decoded enough to recognise them.
import { about } from '../about.js'
import { at, send } from '../api.js'
import { decode } from '../decode.js'
import { scaled } from '../format.js'
import { html, useEffect, useRef, useState } from '../html.js'
import { live } from '../live.js'
import { Button, Choice, Empty, Head, Notice, Problem, hash } from '../parts.js'
import { Reader } from '../pcapng.js'
import { Table } from '../table.js'
import { plural, t } from '../words.js'

const MOST = 1000 // packets that are shown
const KEPT = 16 << 20 // bytes that can be saved
const DRAW = 250 // ms
const BREATH = 40 // ms between pieces: a page may not keep a host busy, and what it misses is counted

/** @param {{rest: string[]}} props */
export function Packets({ rest }) {
  const { mirrors } = live.use()
  const { read_only } = about.use()
  const [mirror = '', session = '', source = ''] = rest
  const running = (mirrors ?? []).flatMap((one) => one.sessions.flatMap((/** @type {any} */ each) => each.running
    .filter((/** @type {any} */ row) => row.state === 'up').map((/** @type {any} */ row) => ({ ...row, recorder: each.recorder }))))
  const chosen = JSON.stringify(rest)
  const row = running.find((one) => JSON.stringify([one.mirror, one.session, one.source]) === chosen)
  const options = running.map((one) => ({ value: JSON.stringify([one.mirror, one.session, one.source]), label: `${one.mirror}/${one.session}, ${one.source}` }))
  return html`<${Head} title=${t('Live packets')} lead=${t('What a session mirrors, as it goes; the session does not notice.')} />
    ${read_only ? html`<${Notice}>${t('This console only reads: it shows no packets.')}<//>` : mirrors !== null && options.length === 0 && !mirror ? html`<${Empty}>${t('No session runs.')}<//>` : html`
    <div class="bar"><${Choice} label=${t('Session')} value=${mirror ? chosen : ''} onValue=${(/** @type {string} */ one) => { location.hash = one ? hash('packets', ...JSON.parse(one)) : hash('packets') }}
      options=${[{ value: '', label: t('Choose') }, ...options, ...(mirror && !row ? [{ value: chosen, label: `${mirror}/${session}, ${source}` }] : [])]} /></div>
    ${mirror && html`<${Stream} key=${chosen} ...${{ mirror, session, source }} recorder=${row?.recorder ?? '0'} />`}`}`
}

/** @param {{mirror: string, session: string, source: string, recorder: string}} props */
function Stream({ mirror, session, source, recorder }) {
  const kept = useRef(/** @type {any} */ (null))
  const [shown, setShown] = useState(/** @type {{rows: any[], count: number, missing: number}} */ ({ rows: [], count: 0, missing: 0 }))
  const [paused, setPaused] = useState(false)
  const [ended, setEnded] = useState(false)
  const [last, setLast] = useState('')
  const [turn, setTurn] = useState(0)
  const [sought, setSought] = useState('')
  const [problem, setProblem] = useState(/** @type {any} */ (null))
  const held = useRef(false)
  held.current = paused
  useEffect(() => {
    const stop = new AbortController()
    const all = (kept.current = { reader: new Reader(), packets: [], blocks: [], bytes: 0, count: 0, decoded: 0 })
    const draw = () => !held.current && setShown({ rows: [...all.packets].reverse(), count: all.count, missing: all.reader.missing })
    const timer = setInterval(draw, DRAW)
    setEnded(false)
    setProblem(null)
    follow(mirror, session, source, last, stop.signal, (packets) => take(all, packets), all.reader)
      .catch((error) => stop.signal.aborted || setProblem(error)).finally(() => { draw(); stop.signal.aborted || setEnded(true) })
    return () => { clearInterval(timer); stop.abort() }
  }, [last, turn])
  const words = sought.toLowerCase().split(/\s+/).filter(Boolean)
  const rows = words.length ? shown.rows.filter((one) => words.every((word) => one.text.includes(word))) : shown.rows
  return html`<div class="bar">
      <${Button} kind=${paused ? 'primary' : ''} onClick=${() => setPaused(!paused)}>${paused ? t('Go on') : t('Pause')}<//>
      <input type="search" aria-label=${t('Search')} placeholder=${t('Search addresses, protocols, ports')} size="36" value=${sought} onInput=${(/** @type {any} */ event) => setSought(event.target.value)} />
      ${recorder !== '0' && html`<${Button} onClick=${() => setLast(last ? '' : '30s')} aria-pressed=${Boolean(last)}>${t('From 30 s ago on')}<//>`}
      <${Button} onClick=${() => kept.current && save(kept.current, `${mirror}-${session}`)}>${t('Download pcapng')}<//>
      <span class="quiet">${plural(shown.count, '1 packet', '{n} packets', { n: scaled(shown.count) })}${shown.missing > 0 && `, ${t('{n} not shown: they came faster than the page reads', { n: scaled(shown.missing) })}`}</span>
    </div>
    <${Problem} of=${problem} />
    ${ended && !problem && html`<${Notice} kind="wait">${t('The stream has ended: the session was changed, or its source went.')} <${Button} small onClick=${() => setTurn(turn + 1)}>${t('Begin again')}<//><//>`}
    <${Table} label=${t('Live packets')} rows=${rows} rowKey=${(/** @type {any} */ one) => String(one.number)} columns=${[
      { key: 'time', title: t('Time'), cell: (/** @type {any} */ one) => html`<span class="mono">${one.time}</span>` },
      { key: 'direction', title: t('Direction'), cell: (/** @type {any} */ one) => one.egress ? html`<span class="out">${t('sent')}</span>` : html`<span class="in">${t('received')}</span>` },
      { key: 'source', title: t('Source'), cell: (/** @type {any} */ one) => html`<span class="mono">${one.source}</span>` },
      { key: 'destination', title: t('Destination'), cell: (/** @type {any} */ one) => html`<span class="mono">${one.destination}</span>` },
      { key: 'protocol', title: t('Protocol'), cell: (/** @type {any} */ one) => one.protocol },
      { key: 'vlan', title: 'VLAN', cell: (/** @type {any} */ one) => one.vlan },
      { key: 'length', title: t('Length'), number: true, cell: (/** @type {any} */ one) => one.length },
      { key: 'info', title: t('About it'), wide: true, cell: (/** @type {any} */ one) => html`<span title=${one.info}>${one.info}</span>` },
    ]} />`
}

/**
 * @param {string} mirror @param {string} session @param {string} source @param {string} last @param {AbortSignal} signal
 * @param {(packets: import('../pcapng.js').Packet[]) => void} give @param {Reader} reader
 */
async function follow(mirror, session, source, last, signal, give, reader) {
  const query = new URLSearchParams({ source, ...(last && { last, follow: 'true' }) })
  const response = await send('GET', `${at('mirrors', mirror, 'sessions', session, 'capture')}?${query}`, undefined, {}, signal)
  const stream = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader()
  for (;;) {
    const { done, value } = await stream.read()
    if (done) return
    give(reader.read(value))
    await new Promise((next) => setTimeout(next, BREATH))
  }
}

/** @param {any} all @param {import('../pcapng.js').Packet[]} packets */
function take(all, packets) {
  for (const one of packets.slice(-MOST)) {
    const told = decode(one.data, one.raw)
    const time = new Date(one.at)
    const stamp = `${time.toTimeString().slice(0, 8)}.${String(Math.floor(one.at * 1000) % 1_000_000).padStart(6, '0')}`
    const text = Object.values(told).join(' ').toLowerCase()
    all.packets.push({ ...told, number: ++all.decoded, time: stamp, egress: one.egress, length: one.length, text })
  }
  all.count += packets.length
  all.packets.splice(0, Math.max(0, all.packets.length - MOST))
  for (const one of packets) {
    all.blocks.push(one.block)
    all.bytes += one.block.length
  }
  while (all.bytes > KEPT) all.bytes -= all.blocks.shift().length
}

/** @param {any} all @param {string} name */
function save(all, name) {
  const url = URL.createObjectURL(new Blob([...all.reader.head, ...all.blocks], { type: 'application/x-pcapng' }))
  const link = document.createElement('a')
  link.href = url
  link.download = `${name}.pcapng`
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
