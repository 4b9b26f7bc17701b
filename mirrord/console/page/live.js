// @ts-check
// What the daemon mirrors, as it is now: asked for as long as the page is looked at.
import { ask, at } from './api.js'
import { Store } from './store.js'
import { total } from './format.js'

const EVERY = 1000 // ms
const COSTS = 20 // times what the last answer took: a page may not keep a daemon busy
const REMEMBERED = 60_000 // ms that a loss counts as one of now

/**
 * `lost` has, by "mirror/session/source", when its losses last grew.
 * @type {Store<{mirrors: any[] | null, problem: any, lost: Map<string, number>}>}
 */
export const live = new Store({ mirrors: null, problem: null, lost: new Map() })

let wake = () => {}
let dropped = /** @type {Map<string, number>} */ (new Map())

/** Ask again at once: something was changed. */
export async function refresh() {
  await look()
  wake()
}

/** Follow the daemon until the page is closed. */
export async function follow() {
  document.addEventListener('visibilitychange', () => document.hidden || wake())
  for (;;) {
    const begun = performance.now()
    if (!document.hidden) await look()
    const pause = Math.max(EVERY, COSTS * (performance.now() - begun))
    await new Promise((done) => {
      const timer = setTimeout(done, document.hidden ? 3_600_000 : pause)
      wake = () => { clearTimeout(timer); done(undefined) }
    })
  }
}

async function look() {
  try {
    const { mirrors } = (await ask('GET', at('mirrors'))).body
    live.set({ mirrors, problem: null, lost: losses(mirrors) })
  } catch (problem) {
    live.set({ problem })
  }
}

/** @param {any[]} mirrors */
function losses(mirrors) {
  const [now, found, lost] = [Date.now(), new Map(), new Map()]
  for (const row of rowsOf(mirrors)) {
    const key = keyOf(row)
    const count = total(row.counters.dropped_frames)
    found.set(key, count)
    const grew = dropped.has(key) && count > /** @type {number} */ (dropped.get(key))
    const since = grew ? now : live.value.lost.get(key)
    if (since !== undefined && now - since < REMEMBERED) lost.set(key, since)
  }
  dropped = found
  return lost
}

/** @param {any} row */
export const keyOf = (row) => `${row.mirror}/${row.session}/${row.source}`

/** Every session on each of its sources. @param {any[]} mirrors @returns {any[]} */
export const rowsOf = (mirrors) => mirrors.flatMap((mirror) => mirror.sessions.flatMap((/** @type {any} */ one) => one.running))
