// @ts-check
// A picture: sources on the left, destinations on the right, a stream for each pair, as wide as it is busy.
import { html } from '../html.js'
import { rowHealth } from '../health.js'
import { destinationText, scaled, sourceText } from '../format.js'
import { t } from '../words.js'

const [WIDTH, BOX, HIGH, GAP, PAD] = [960, 250, 42, 12, 10]
const MOST = 24 // streams; the busiest are shown
const WORST = ['bad', 'wait', 'warn', 'ok', 'off']

/** @param {any[]} mirrors @param {Map<string, number>} lost */
function streams(mirrors, lost) {
  const found = /** @type {Map<string, any>} */ (new Map())
  for (const mirror of mirrors) {
    for (const session of mirror.sessions) {
      for (const row of session.running) {
        if (row.side === 'destination') continue // what arrives is what was sent
        const source = row.source || sourceText(session.source)
        const to = destinationText(session.destination)
        const key = JSON.stringify([source, to])
        const one = found.get(key) ?? { source, guest: row.guest, to, bits: 0, frames: 0, kind: 'off', names: [] }
        const { kind } = rowHealth(row, lost)
        if (WORST.indexOf(kind) < WORST.indexOf(one.kind)) one.kind = kind
        one.bits += row.bits_per_second
        one.frames += row.frames_per_second
        one.names.push(`${row.mirror}/${row.session}`)
        found.set(key, one)
      }
    }
  }
  return [...found.values()].sort((one, other) => other.bits - one.bits)
}

/** @param {any[]} shown @param {'source' | 'to'} side */
function places(shown, side) {
  const names = [...new Set(shown.map((one) => one[side]))]
  return new Map(names.map((name, index) => [name, PAD + index * (HIGH + GAP)]))
}

/** @param {{mirrors: any[], lost: Map<string, number>}} props */
export function Flow({ mirrors, lost }) {
  const all = streams(mirrors, lost)
  const shown = all.slice(0, MOST)
  if (!shown.length) return html`<p class="quiet">${t('Nothing flows yet.')}</p>`
  const [left, right] = [places(shown, 'source'), places(shown, 'to')]
  const height = 2 * PAD - GAP + (HIGH + GAP) * Math.max(left.size, right.size)
  const most = Math.max(...shown.map((one) => one.bits), 1)
  const label = shown.map((one) => t('{source} to {to}: {rate}', { ...one, rate: scaled(one.bits, 'bit/s') })).join('; ')
  return html`<div class="flow" tabindex="0" role="region" aria-label=${t('What goes where')}><svg viewBox="0 0 ${WIDTH} ${height}" style=${{ maxHeight: `${height}px` }} role="img" aria-label=${label}>
    ${shown.map((one) => {
      const [y, z] = [(left.get(one.source) ?? 0) + HIGH / 2, (right.get(one.to) ?? 0) + HIGH / 2]
      const width = one.bits ? 2 + 12 * Math.sqrt(one.bits / most) : 2
      const way = `M${BOX} ${y} C${WIDTH / 2} ${y} ${WIDTH / 2} ${z} ${WIDTH - BOX} ${z}`
      return html`<g class=${one.kind}><path class="stream ${one.bits ? '' : 'still'}" stroke-width=${width} d=${way}><title>${one.names.join(', ')}</title></path>
        ${one.bits > 0 && html`<path class="moving" d=${way} />`}</g>`
    })}
    ${[...left].map(([name, y]) => html`<${Place} x=${0} y=${y} name=${name} sub=${told(shown.filter((one) => one.source === name))} />`)}
    ${[...right].map(([name, y]) => html`<${Place} x=${WIDTH - BOX} y=${y} name=${name} sub=${told(shown.filter((one) => one.to === name))} />`)}
  </svg>${all.length > MOST && html`<p class="quiet">${t('and {n} more, less busy', { n: all.length - MOST })}</p>`}</div>`
}

/** @param {any[]} streams */
function told(streams) {
  const bits = streams.reduce((sum, one) => sum + one.bits, 0)
  const frames = streams.reduce((sum, one) => sum + one.frames, 0)
  return `${scaled(frames)} ${t('frames/s')}, ${scaled(bits, 'bit/s')}`
}

/** @param {{x: number, y: number, name: string, sub: string}} props */
const Place = ({ x, y, name, sub }) => html`<g><rect x=${x} y=${y} width=${BOX} height=${HIGH} rx="7" />
  <text x=${x + 12} y=${y + 18}>${cut(name)}<title>${name}</title></text>
  <text class="sub" x=${x + 12} y=${y + 34}>${sub}</text></g>`

/** As much of a name as the box is wide; letters of Chinese are twice as wide. @param {string} name */
function cut(name) {
  let [text, width] = ['', 0]
  for (const letter of name) {
    width += letter < '\u1100' ? 1 : 2
    if (width > 33) return `${text}…`
    text += letter
  }
  return text
}
