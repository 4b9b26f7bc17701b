// @ts-check
// What the daemon would say of an object, asked while it is written: nothing is changed by it.
import { about } from './about.js'
import { ask, at } from './api.js'
import { useEffect, useState } from './html.js'

const PAUSE = 250 // ms after the last key
const PROBLEM = /^((?:mirrors|filters|flow_networks)\.\S+): (.*)$/ // a line of a refusal, of one key
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
        const { problems, warnings } = await said(resource, body)
        if (current) setChecked({ problems: byKey(problems, resource), warnings: byKey(warnings, resource), done: true })
      } catch {} // what cannot be checked is told when it is sent
    }, PAUSE)
    return () => { current = false; clearTimeout(timer) }
  }, [asked])
  return checked
}

/**
 * An agent checks nothing but what is put there: it is tried.
 * @param {string[]} resource @param {any} body @returns {Promise<{problems: {path: string, message: string}[], warnings: {path: string, message: string}[]}>}
 */
async function said(resource, body) {
  if (!about.value.cluster) return (await ask('POST', at(...resource, 'check'), body)).body
  try {
    return { problems: [], warnings: (await ask('PUT', `${at(...resource)}?dry_run=true`, body)).body.warnings }
  } catch (error) {
    const { status, message, path } = /** @type {import('./api.js').ApiError} */ (error)
    if (!(status >= 400 && status < 500)) throw error
    const lines = message.split('\n').map((line) => PROBLEM.exec(line) ?? [line, path, line])
    return { problems: lines.map(([, where, what]) => ({ path: where, message: what })), warnings: [] }
  }
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
