// @ts-check
// What the daemon would say of an object, asked while it is written: nothing is changed by it.
import { ask, at } from './api.js'
import { useEffect, useState } from './html.js'

const PAUSE = 250 // ms after the last key
const BARE = /^[\w-]+$/ // a key that TOML, and so a path, has without quotes

/**
 * @typedef {{problems: Record<string, string[]>, warnings: Record<string, string[]>, done: boolean}} Checked
 * Problems and warnings by the path of the key that they are about, within the object; '' has those about no key of it.
 */

/**
 * @param {string[]} resource the object's, such as ['mirrors', 'core', 'sessions', 'nic']
 * @param {any} body the object as it would be put there; null: not yet
 * @returns {Checked}
 */
export function useCheck(resource, body) {
  const [checked, setChecked] = useState(/** @type {Checked} */ ({ problems: {}, warnings: {}, done: false }))
  const asked = JSON.stringify([resource, body])
  useEffect(() => {
    if (body === null) return undefined
    setChecked((/** @type {Checked} */ before) => ({ ...before, done: false }))
    let current = true
    const timer = setTimeout(async () => {
      try {
        const { problems, warnings } = (await ask('POST', at(...resource, 'check'), body)).body
        if (current) setChecked({ problems: byKey(problems, resource), warnings: byKey(warnings, resource), done: true })
      } catch {} // what cannot be checked is told when it is sent
    }, PAUSE)
    return () => { current = false; clearTimeout(timer) }
  }, [asked])
  return checked
}

/** @param {{path: string, message: string}[]} told @param {string[]} resource */
export function byKey(told, resource) {
  const [section, name, , session] = resource
  const prefix = `${section}.${BARE.test(name) ? name : JSON.stringify(name)}.${session === undefined ? '' : `sessions[${session}].`}`
  const found = /** @type {Record<string, string[]>} */ ({})
  for (const one of told) {
    const inside = one.path.startsWith(prefix)
    const key = inside ? one.path.slice(prefix.length) : ''
    const elsewhere = inside || one.path === prefix.slice(0, -1) || one.path === '' ? '' : `${one.path}: `
    found[key] = [...new Set([...(found[key] ?? []), `${elsewhere}${one.message}`])]
  }
  return found
}
