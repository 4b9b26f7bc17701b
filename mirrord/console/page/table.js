// @ts-check
// A table of as many rows as there are: only those that are looked at are in the page.
import { html, useLayoutEffect, useMemo, useRef, useState } from './html.js'
import { t } from './words.js'

const ROW = 37 // pixels, as style.css has it for .table td
const WHOLE = 80 // rows that a page takes without a thought
const MORE = 6 // rows above and below what is seen

/**
 * @typedef {{key: string, title: string, cell: (row: any) => any, number?: boolean, order?: (row: any) => any, wide?: boolean, hidden?: boolean}} Column
 * @param {{columns: Column[], rows: any[], rowKey: (row: any) => string, label: string, first?: string, down?: boolean, rowProps?: (row: any) => any}} props
 */
export function Table({ columns, rows, rowKey, label, first = '', down = false, rowProps = () => ({}) }) {
  const [order, setOrder] = useState({ by: first, down })
  const sorted = useMemo(() => inOrder(rows, columns.find((one) => one.key === order.by), order.down), [rows, order])
  const drawn = useMemo(() => new Map(), [rows, columns, order]) // what is scrolled past is not made anew
  const box = useRef(/** @type {any} */ (null))
  const [seen, setSeen] = useState({ top: 0, height: 600 })
  const virtual = sorted.length > WHOLE
  useLayoutEffect(() => {
    const element = box.current
    if (!virtual) return undefined
    const look = () => setSeen({ top: element.scrollTop, height: element.clientHeight })
    element.addEventListener('scroll', look, { passive: true })
    look()
    return () => element.removeEventListener('scroll', look)
  }, [virtual])
  const from = virtual ? Math.max(0, Math.floor(seen.top / ROW) - MORE) & ~1 : 0 // even: the stripes stay
  const to = virtual ? Math.min(sorted.length, Math.ceil((seen.top + seen.height) / ROW) + MORE) : sorted.length
  return html`<div class="table ${virtual ? 'virtual' : ''}" ref=${box} tabindex="0" role="region" aria-label=${label}>
    <table aria-rowcount=${virtual ? sorted.length + 1 : undefined}>
      <thead><tr aria-rowindex=${virtual ? 1 : undefined}>${columns.map((one) => html`<th key=${one.key} scope="col" class="${one.number ? 'number' : ''} ${one.wide ? 'wide' : ''}"
          aria-sort=${one.key === order.by ? (order.down ? 'descending' : 'ascending') : undefined}>
        ${one.order ? html`<button type="button" class="sort" onClick=${() => setOrder({ by: one.key, down: order.by === one.key && !order.down })}>${one.title}<span aria-hidden="true">${one.key === order.by ? (order.down ? ' ▾' : ' ▴') : ''}</span></button>`
          : one.hidden ? html`<span class="unseen">${one.title}</span>` : one.title}</th>`)}</tr></thead>
      <tbody>
        ${from > 0 && html`<tr class="space" aria-hidden="true"><td colspan=${columns.length} style=${{ height: `${from * ROW}px` }}></td></tr>`}
        ${sorted.slice(from, to).map((row, index) => remembered(drawn, rowKey(row), () => html`<tr key=${rowKey(row)} aria-rowindex=${virtual ? from + index + 2 : undefined} ...${rowProps(row)}>
          ${columns.map((one) => html`<td key=${one.key} class="${one.number ? 'number' : ''} ${one.wide ? 'wide' : ''}">${one.cell(row)}</td>`)}</tr>`))}
        ${to < sorted.length && html`<tr class="space" aria-hidden="true"><td colspan=${columns.length} style=${{ height: `${(sorted.length - to) * ROW}px` }}></td></tr>`}
      </tbody>
    </table>
    ${sorted.length === 0 && html`<p class="none">${t('Nothing is here.')}</p>`}
  </div>`
}

/** @param {Map<string, any>} drawn @param {string} key @param {() => any} draw */
function remembered(drawn, key, draw) {
  if (!drawn.has(key)) drawn.set(key, draw())
  return drawn.get(key)
}

/** @param {any[]} rows @param {Column | undefined} column @param {boolean} down */
function inOrder(rows, column, down) {
  const order = column?.order
  if (!order) return rows
  const sign = down ? -1 : 1
  return [...rows].sort((one, other) => {
    const [a, b] = [order(one), order(other)]
    return sign * (typeof a === 'string' ? a.localeCompare(b) : a - b)
  })
}
