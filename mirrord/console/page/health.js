// @ts-check
// Is a mirror complete? Judged by its sessions' states and by what is lost, in this order.
import { causeText, total } from './format.js'
import { keyOf } from './live.js'
import { t } from './words.js'

/**
 * @typedef {{kind: 'ok' | 'warn' | 'bad' | 'wait' | 'off', word: string, why: string}} Verdict
 */

/** One session on one source. @param {any} row @param {Map<string, number>} lost @returns {Verdict} */
export function rowHealth(row, lost) {
  if (row.state === 'failed') return { kind: 'bad', word: t('failed'), why: row.reason }
  if (row.state === 'waiting') return { kind: 'wait', word: t('waiting'), why: row.reason }
  if (row.state === 'refused') return { kind: 'bad', word: t('refused'), why: row.reason }
  if (row.state === 'paused') return { kind: 'warn', word: t('paused'), why: row.reason }
  const why = Object.entries(row.counters.dropped_frames).filter(([, n]) => Number(n) > 0).map(([one]) => causeText(one)).join('; ')
  if (lost.has(keyOf(row))) return { kind: 'bad', word: t('losing frames'), why }
  if (why) return { kind: 'warn', word: t('lost some'), why }
  return { kind: 'ok', word: t('complete'), why: row.warnings[0] ?? '' }
}

const WORST = ['bad', 'wait', 'warn', 'ok']

/** @param {any} mirror @param {Map<string, number>} lost @returns {Verdict} */
export function mirrorHealth(mirror, lost) {
  if (mirror.expired) return { kind: 'off', word: t('expired'), why: t('its time is over') }
  if (!mirror.enabled) return { kind: 'off', word: t('disabled'), why: '' }
  const rows = mirror.sessions.flatMap((/** @type {any} */ one) => one.running)
  const verdicts = rows.map((/** @type {any} */ row) => rowHealth(row, lost))
  verdicts.sort((/** @type {Verdict} */ one, /** @type {Verdict} */ other) => WORST.indexOf(one.kind) - WORST.indexOf(other.kind))
  if (verdicts.length) return verdicts[0]
  return mirror.sessions.some((/** @type {any} */ one) => one.enabled)
    ? { kind: 'wait', word: t('waiting'), why: t('nothing of it runs yet') }
    : { kind: 'off', word: t('no sessions'), why: t('a mirror copies nothing without a session') }
}

/**
 * What the rows of a mirror, or of any, come to together. In a cluster a session may have two halves, whose frames are the same
 * ones; what a host left out it does not tell there.
 * @param {any[]} rows
 */
export function sums(rows) {
  const causes = /** @type {Record<string, number>} */ ({})
  const all = { frames: 0, bits: 0, captured: 0, dropped: 0, skipped: 0, up: 0, sources: 0, causes }
  for (const row of rows) {
    const { captured_frames, mirrored_frames, dropped_frames, skipped_frames = {} } = row.counters
    const dropped = total(dropped_frames)
    if (row.side !== 'destination') {
      all.frames += row.frames_per_second
      all.bits += row.bits_per_second
      all.up += row.state === 'up' ? 1 : 0
      all.sources++
      all.captured += captured_frames ?? mirrored_frames + dropped
    }
    all.dropped += dropped
    all.skipped += total(skipped_frames)
    for (const [cause, count] of Object.entries(dropped_frames)) {
      if (Number(count) > 0) causes[cause] = (causes[cause] ?? 0) + Number(count)
    }
  }
  return all
}
