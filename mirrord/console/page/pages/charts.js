// @ts-check
// The last hour: rates, losses, ring fill and latency, out of the daemon's own short history.
import { ask, at } from '../api.js'
import { causeText, scaled } from '../format.js'
import { joined, pastOf } from '../history.js'
import { html, useEffect, useRef, useState } from '../html.js'
import { live } from '../live.js'
import { Choice, Head, Notice, Problem, hash } from '../parts.js'
import { Plot } from '../plot.js'
import { t } from '../words.js'

const HOUR = 3600
const COLOURS = ['bad', 'warn', 'accent', 'ok', 'off', 'text', 'quiet']
const SUMS_EVERY = 2000 // ms
const SESSION_EVERY = 5000

/** @param {{rest: string[]}} props */
export function Charts({ rest }) {
  const { mirrors } = live.use()
  const chosen = rest.length ? JSON.stringify(rest) : ''
  const sessions = (mirrors ?? []).flatMap((one) => one.sessions.map((/** @type {any} */ each) => [one.name, each.name]))
  return html`<${Head} title=${t('Charts')} lead=${t('The last hour, as the daemon itself remembers it: all sessions together each second, one session each ten seconds.')} />
    <div class="bar"><${Choice} label=${t('Session')} value=${chosen} onValue=${(/** @type {string} */ one) => { location.hash = one ? hash('charts', ...JSON.parse(one)) : hash('charts') }}
      options=${[{ value: '', label: t('all sessions together') }, ...sessions.map((one) => ({ value: JSON.stringify(one), label: one.join('/') }))]} /></div>
    <${Hour} key=${chosen} mirror=${rest[0]} session=${rest[1]} />`
}

/** @param {{mirror?: string, session?: string}} props */
function Hour({ mirror, session }) {
  const [past, setPast] = useState(/** @type {any} */ (null))
  const [problem, setProblem] = useState(/** @type {any} */ (null))
  const kept = useRef(/** @type {any} */ (null))
  const theme = useTheme()
  useEffect(() => {
    let gone = false
    const look = async () => {
      const query = new URLSearchParams({ ...(mirror && session && { mirror, session }), ...(kept.current?.times.length && { since: kept.current.times.at(-1) }) })
      try {
        const more = (await ask('GET', `${at('history')}?${query}`)).body
        if (gone) return
        setPast((kept.current = joined(kept.current, pastOf(more), HOUR)))
        setProblem(null)
      } catch (error) {
        if (!gone) setProblem(error)
      }
    }
    look()
    const timer = setInterval(() => document.hidden || look(), mirror ? SESSION_EVERY : SUMS_EVERY)
    return () => { gone = true; clearInterval(timer) }
  }, [])
  if (problem?.status === 404 && !mirror) return html`<${Notice}>${t('This daemon keeps no history.')}<//>`
  if (problem || past === null) return html`<${Problem} of=${problem} />`
  const lost = Object.entries(past.lost).filter(([, values]) => /** @type {number[]} */ (values).some((one) => one > 0))
  const lines = lost.map(([reason, values], index) => ({ label: causeText(reason), colour: COLOURS[index % COLOURS.length], values }))
  const { times } = past
  if (past.left_out) return html`<${Notice} kind="warn">${t('There are more sessions than the daemon has room to remember: this one is left out.')}<//>`
  if (times.length < 2) return html`<${Notice}>${t('There is nothing to draw yet.')}<//>`
  /** @param {string} name @param {string} colour @param {string} label */
  const line = (name, colour, label) => [{ label, colour, values: past[name] }]
  return html`<div class="plots">
    <${Plot} title=${t('Mirrored')} ...${{ times, theme }} lines=${line('frames', 'accent', t('frames/s'))} text=${(/** @type {number} */ one) => scaled(one)} />
    <${Plot} title=${t('Sent')} ...${{ times, theme }} lines=${line('bits', 'accent', t('bits/s'))} text=${(/** @type {number} */ one) => scaled(one, 'bit/s')} />
    <${Plot} title=${t('Lost, frames/s')} ...${{ times, theme }} text=${(/** @type {number} */ one) => scaled(one)}
      lines=${lines.length ? lines : [{ label: t('nothing'), colour: 'ok', values: times.map(() => 0) }]} />
    <${Plot} title=${t('The fullest ring')} ...${{ times, theme }} lines=${line('fill', 'warn', t('of its size'))} most=${1} text=${(/** @type {number} */ one) => `${Math.round(100 * one)}\u202f%`} />
    <${Plot} title=${t('Latency, from capture to send')} ...${{ times, theme }} lines=${line('latency', 'ok', t('of each step'))} text=${duration} />
  </div>`
}

/** @param {number} seconds */
const duration = (seconds) => seconds >= 1 ? `${seconds.toPrecision(3)}\u202fs` : seconds >= 1e-3 ? `${(seconds * 1e3).toPrecision(3)}\u202fms` : `${Math.round(seconds * 1e6)}\u202fµs`

/** Another value when the colours change: a chart is a picture, which style.css does not reach. */
function useTheme() {
  const [n, draw] = useState(0)
  useEffect(() => {
    const again = () => draw((/** @type {number} */ one) => one + 1)
    const media = matchMedia('(prefers-color-scheme: dark)')
    const chosen = new MutationObserver(again)
    media.addEventListener('change', again)
    chosen.observe(document.documentElement, { attributeFilter: ['data-theme'] })
    return () => { media.removeEventListener('change', again); chosen.disconnect() }
  }, [])
  return String(n)
}
