// @ts-check
// Lists of objects that change seldom: asked for when a page that shows them is opened, and after each change.
import { ask, at } from './api.js'
import { useEffect } from './html.js'
import { live } from './live.js'
import { Store } from './store.js'

/** @type {Store<Record<string, any[] | undefined>>} */
const lists = new Store({})

/** @param {string} section such as 'filters' @returns {any[] | undefined} */
export function useList(section) {
  const value = lists.use()[section]
  const { changed } = live.use()
  useEffect(() => void reload(section).catch(() => {}), [section, changed]) // why it cannot be had is told on every page
  return value
}

/** @param {string} section */
export async function reload(section) {
  lists.set({ [section]: (await ask('GET', at(section))).body[section] })
}
