// @ts-check
// Lists of objects that change seldom: asked for when a page that shows them is opened, and after each change.
import { about } from './about.js'
import { ask, at } from './api.js'
import { useEffect } from './html.js'
import { live } from './live.js'
import { Store } from './store.js'

/** What an agent does not have. */
const OF_A_HOST = ['sources']

/** @type {Store<Record<string, any[] | undefined>>} */
const lists = new Store({})

/** @param {string} section such as 'filters' @returns {any[] | undefined} */
export function useList(section) {
  const value = lists.use()[section]
  const { changed } = live.use()
  useEffect(() => {
    if (!about.value.cluster || !OF_A_HOST.includes(section)) reload(section).catch(() => {}) // why it cannot be had is told on every page
  }, [section, changed])
  return value
}

/** @param {string} section */
export async function reload(section) {
  lists.set({ [section]: (await ask('GET', at(section))).body[section] })
}

/** The sessions that have a filter, by their names. @param {any[] | null} mirrors @param {string} filter */
export const usersOf = (mirrors, filter) => (mirrors ?? []).flatMap((mirror) => mirror.sessions
  .filter((/** @type {any} */ one) => one.filter === filter).map((/** @type {any} */ one) => ({ mirror: mirror.name, session: one })))
