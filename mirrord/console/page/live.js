// @ts-check
// What the daemon mirrors, as it is now: objects are asked for when they change, rates come as events.
// A cluster's agent tells no events: it is asked now and then.
import { about } from './about.js'
import { ask, at, send } from './api.js'
import { events } from './events.js'
import { total } from './format.js'
import { Store } from './store.js'

const AGAIN = 1000 // ms until a daemon that went is asked again
const ASKED_EVERY = 3000 // ms, where there are no events: hosts tell an agent seldom how they do
const COSTS = 20 // times what the last answer took: a page may not keep a daemon busy
const COUNTED = 30_000 // ms that counters are shown for at most: events have rates alone
const REMEMBERED = 60_000 // ms that a loss counts as one of now

/**
 * `lost` has, by "mirror/session/source", when its losses last grew; `changed` grows with each change of objects and each row
 * of the audit log; `status` is a cluster's.
 * @type {Store<{mirrors: any[] | null, status: any, problem: any, lost: Map<string, number>, changed: number}>}
 */
export const live = new Store({ mirrors: null, status: null, problem: null, lost: new Map(), changed: 0 })

const dropped = /** @type {Map<string, number>} */ (new Map())
const rows = /** @type {Map<string, any>} */ (new Map())
let [wanted, due, looked] = [false, 0, 0]

/** Ask at once: something was changed here. */
export async function refresh() {
  await look()
}

/** Follow the daemon until the page is closed, or has no key any more; while nobody looks at it, nothing is asked. */
export async function follow() {
  while (live.value.problem?.code !== 'no_key') {
    if (document.hidden) await new Promise((next) => document.addEventListener('visibilitychange', next, { once: true }))
    const stop = new AbortController()
    const hidden = () => document.hidden && stop.abort()
    document.addEventListener('visibilitychange', hidden)
    try {
      const response = about.value.cluster ? null : await send('GET', at('events'), undefined, {}, stop.signal)
      await look()
      live.set({ changed: live.value.changed + 1 }) // what happened meanwhile was not heard
      if (response) for await (const [name, told] of events(response)) hear(name, told)
    } catch (problem) {
      if (!stop.signal.aborted) live.set({ problem })
    }
    document.removeEventListener('visibilitychange', hidden)
    await new Promise((next) => setTimeout(next, Math.max(about.value.cluster ? ASKED_EVERY : AGAIN, due - performance.now())))
  }
}

/** @param {string} name @param {any} told */
function hear(name, told) {
  if (name === '' && live.value.lost.size) live.set({ lost: losses([]) })
  if (name === 'counters') rate(told)
  if (name === 'state') soon()
  if (name === 'audit' || name === 'objects') {
    live.set({ changed: live.value.changed + 1 })
    soon()
  }
}

/** Ask, but not too often: many changes may come together. */
function soon() {
  if (wanted) return
  wanted = true
  setTimeout(() => {
    wanted = false
    look().catch((problem) => live.set({ problem }))
  }, Math.max(50, due - performance.now()))
}

async function look() {
  const begun = performance.now()
  const asked = [at('mirrors'), ...(about.value.cluster ? [at('status')] : [])]
  const [{ mirrors }, status = null] = (await Promise.all(asked.map((path) => ask('GET', path)))).map((one) => one.body)
  looked = performance.now()
  due = looked + COSTS * (looked - begun)
  rows.clear()
  for (const row of rowsOf(mirrors)) rows.set(keyOf(row), row)
  live.set({ mirrors, status, problem: null, lost: losses([...rows.values()]) })
}

/**
 * How fast sessions are, [mirror, session, source, frames/s, bits/s] each: those that did nothing are not in it.
 * What they have counted is asked for now and then, and at once when frames are lost.
 * @param {any} told
 */
function rate(told) {
  const { mirrors } = live.value
  if (mirrors === null) return
  const busy = new Map(told.sessions.map((/** @type {any[]} */ [mirror, session, source, frames, bits]) => [keyOf({ mirror, session, source }), [frames, bits]]))
  for (const [key, row] of rows) [row.frames_per_second, row.bits_per_second] = busy.get(key) ?? [0, 0]
  live.set({ mirrors: [...mirrors], lost: losses([]) })
  if (total(told.dropped_per_second ?? {}) > 0 || performance.now() - looked > COUNTED) soon()
}

/** @param {any[]} again the rows that are looked at again */
function losses(again) {
  const [now, lost] = [Date.now(), new Map()]
  for (const [key, since] of live.value.lost) if (now - since < REMEMBERED) lost.set(key, since)
  for (const row of again) {
    const [key, n] = [keyOf(row), total(row.counters.dropped_frames)]
    if (n > (dropped.get(key) ?? n)) lost.set(key, now)
    dropped.set(key, n)
  }
  return lost
}

/** @param {any} row */
export const keyOf = (row) => `${row.mirror}/${row.session}/${row.source}`

/** Every session on each of its sources. @param {any[]} mirrors @returns {any[]} */
export const rowsOf = (mirrors) => mirrors.flatMap((mirror) => mirror.sessions.flatMap((/** @type {any} */ one) => one.running))
