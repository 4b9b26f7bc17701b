// @ts-check
// A chart over time, by uPlot, which is fetched when the first one is drawn.
import { html, useEffect, useRef } from './html.js'

const HEIGHT = 150

/** @type {Promise<any> | undefined} */
let loading

function uPlot() {
  loading ??= new Promise((done, failed) => {
    const style = document.createElement('link')
    Object.assign(style, { rel: 'stylesheet', href: '/vendor/uplot.css' })
    const script = document.createElement('script')
    Object.assign(script, { src: '/vendor/uplot.js', onload: () => done(/** @type {any} */ (window).uPlot), onerror: failed })
    document.head.append(style, script)
  })
  return loading
}

/** @param {string} name of a colour in style.css */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()

/**
 * @typedef {{label: string, colour: string, values: (number | null)[]}} Line
 * @param {{title: string, times: number[], lines: Line[], text: (value: number) => string, most?: number, theme: string}} props
 */
export function Plot({ title, times, lines, text, most, theme }) {
  const box = useRef(/** @type {any} */ (null))
  const chart = useRef(/** @type {any} */ (null))
  const data = [times, ...lines.map((one) => one.values)]
  const drawn = useRef(data)
  drawn.current = data
  const names = lines.map((one) => one.label).join()
  useEffect(() => {
    let [gone, made] = [false, /** @type {any} */ (null)]
    const place = box.current
    const resized = new ResizeObserver(() => made?.setSize({ width: place.clientWidth, height: HEIGHT }))
    uPlot().then((Chart) => {
      if (gone) return
      const axis = { stroke: colour('quiet'), grid: { stroke: colour('line'), width: 1 }, ticks: { stroke: colour('line'), width: 1 }, font: '11px system-ui' }
      made = chart.current = new Chart({
        width: place.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { y: false },
        scales: { x: { time: true }, y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ high) => [0, most ?? (high > 0 ? high * 1.08 : 1)] } },
        axes: [{ ...axis, values: '{HH}:{mm}:{ss}', space: 80 }, { ...axis, size: 74, values: (/** @type {any} */ _, /** @type {number[]} */ values) => values.map(text) }],
        series: [{}, ...lines.map((one) => ({ label: one.label, stroke: colour(one.colour), width: 1.5, points: { show: false } }))],
      }, drawn.current, place)
      resized.observe(place)
    })
    return () => { gone = true; resized.disconnect(); made?.destroy(); chart.current = null }
  }, [names, theme])
  useEffect(() => chart.current?.setData(data), [times])
  return html`<figure class="plot"><figcaption><strong>${title}</strong>
      ${lines.map((one) => html`<span class="key" key=${one.label}><i style=${{ background: `var(--${one.colour})` }}></i>${one.label} <b>${said(one.values, text)}</b></span>`)}</figcaption>
    <div ref=${box} role="img" aria-label="${title}: ${lines.map((one) => `${one.label} ${said(one.values, text)}`).join(', ')}"></div></figure>`
}

/** The last value, and the highest. @param {(number | null)[]} values @param {(value: number) => string} text */
function said(values, text) {
  const known = values.filter((one) => one !== null)
  return known.length ? `${text(known[known.length - 1] ?? 0)} (≤ ${text(known.reduce((most, one) => Math.max(most, one), 0))})` : '–'
}
