// @ts-check
// The daemon's history: a time and rates for each step, losses by their reasons; and how it grows.

/**
 * @typedef {{times: number[], frames: number[], bits: number[], fill: number[], latency: number[], lost: Record<string, number[]>}} Past
 * @param {any} answer @returns {Past & {left_out?: boolean}}
 */
export function pastOf(answer) {
  const { times, frames_per_second, bits_per_second, ring_fill, latency_seconds, dropped_per_second, left_out } = answer
  return { times, frames: frames_per_second, bits: bits_per_second, fill: ring_fill, latency: latency_seconds, lost: dropped_per_second, left_out }
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
