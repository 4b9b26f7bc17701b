// @ts-check
// The daemon's history in one form, whoever answers it: a time and rates for each step, losses by their reasons.

/**
 * @typedef {{times: number[], frames: number[], bits: number[], fill: number[], latency: number[], lost: Record<string, number[]>}} Past
 * @param {any} answer @returns {Past & {left_out?: boolean}}
 */
export function pastOf(answer) {
  if (answer.times) {
    const { times, frames_per_second, bits_per_second, ring_fill, latency_seconds, dropped_per_second, left_out } = answer
    return { times, frames: frames_per_second, bits: bits_per_second, fill: ring_fill, latency: latency_seconds, lost: dropped_per_second, left_out }
  }
  const parts = answer.sessions ?? [answer]
  const times = /** @type {number[]} */ ([...new Set(parts.flatMap((/** @type {any} */ one) => one.time))]).sort((one, other) => one - other)
  /** @param {string} name @param {(...values: number[]) => number} together */
  const column = (name, together) => {
    const known = parts.map((/** @type {any} */ one) => new Map(one.time.map((/** @type {number} */ at, /** @type {number} */ index) => [at, one[name]?.[index] ?? 0])))
    return times.map((at) => together(...known.map((/** @type {Map<number, number>} */ one) => one.get(at) ?? 0), 0))
  }
  const sum = (/** @type {number[]} */ ...values) => values.reduce((all, one) => all + one, 0)
  const names = new Set(parts.flatMap((/** @type {any} */ one) => Object.keys(one)).filter((/** @type {string} */ one) => one.startsWith('dropped_')))
  return {
    times, frames: column('mirrored_frames', sum), bits: column('sent_bytes', sum).map((one) => 8 * one), fill: column('ring_fill', Math.max),
    latency: column('latency_p99_seconds', Math.max),
    lost: Object.fromEntries([...names].map((name) => [String(name).slice('dropped_'.length), column(String(name), sum)])),
  }
}

/** What came since is put behind what is there; what is older than so many seconds goes. @param {Past | null} past @param {Past} more @param {number} kept @returns {Past} */
export function joined(past, more, kept) {
  if (past === null) return more
  const known = past.times.at(-1) ?? 0
  const news = more.times.findIndex((one) => one > known)
  if (news < 0) return past
  const first = Math.max(past.times.findIndex((one) => one > (more.times.at(-1) ?? 0) - kept), 0)
  /** @param {number[]} old @param {number[]} add */
  const behind = (old, add) => [...old.slice(first), ...add.slice(news)]
  const none = past.times.map(() => 0)
  return {
    times: behind(past.times, more.times), frames: behind(past.frames, more.frames), bits: behind(past.bits, more.bits),
    fill: behind(past.fill, more.fill), latency: behind(past.latency, more.latency),
    lost: Object.fromEntries(Object.entries(more.lost).map(([reason, values]) => [reason, behind(past.lost[reason] ?? none, values)])),
  }
}
