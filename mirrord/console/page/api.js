// @ts-check
// Questions to the daemon, by the console's server. Every one carries the key that this window was given.

const KEY = 'mirrord-key'

let ahead = 0 // ms that the host's clock is ahead of this browser's, which may be on another one

/** The time on the host, in ms since 1970. */
export const hostTime = () => Date.now() + ahead

/** What was refused, or could not be asked: the API's own `code`, `message` and `path`. */
export class ApiError extends Error {
  /** @param {number} status @param {{code: string, message: string, path: string}} error */
  constructor(status, error) {
    super(error.message)
    this.status = status
    this.code = error.code
    this.path = error.path
  }
}

/** What this console is. The token of the address is traded for a key, which stays in this window until it is closed. Null: it has none. */
export async function unlock() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token')
  if (token !== null) {
    history.replaceState(null, '', '/#/overview') // neither the address bar nor the history keeps it
    const { key, about } = (await ask('POST', '/console/key', { token })).body
    sessionStorage.setItem(KEY, key)
    return about
  }
  return sessionStorage.getItem(KEY) === null ? null : (await ask('GET', '/console/about')).body
}

/** Forget the key: the server does not know it (any more). */
export function lock() {
  sessionStorage.removeItem(KEY)
}

/**
 * @param {string} method @param {string} path @param {any} [body] @param {Record<string, string>} [headers]
 * @returns {Promise<{body: any, tag: string}>} the answer, and the tag by which it is changed only as it is now
 */
export async function ask(method, path, body, headers = {}) {
  const response = await send(method, path, body, headers)
  const text = await response.text()
  return { body: text ? JSON.parse(text) : null, tag: response.headers.get('ETag') ?? '' }
}

/**
 * The answer's head; its body may be a stream without an end, which `signal` breaks off.
 * @param {string} method @param {string} path @param {any} [body] @param {Record<string, string>} [headers]
 * @param {AbortSignal} [signal]
 */
export async function send(method, path, body, headers = {}, signal) {
  const key = sessionStorage.getItem(KEY)
  const raw = body instanceof Blob || body instanceof ArrayBuffer
  const asked = {
    ...(key === null ? {} : { Authorization: `Bearer ${key}` }),
    ...(body === undefined || raw ? {} : { 'Content-Type': 'application/json' }),
    ...headers,
  }
  let response
  try {
    response = await fetch(path, { method, headers: asked, body: body === undefined || raw ? body : JSON.stringify(body), signal })
  } catch (error) {
    if (signal?.aborted) throw error
    throw new ApiError(0, { code: 'no_console', message: 'mirrorctl console does not run any more', path: '' })
  }
  ahead = Date.parse(response.headers.get('Date') ?? '') - Date.now() || 0
  if (response.ok) return response
  /** @type {{code: string, message: string, path: string}} */
  let told = { code: 'internal', message: `${response.status} ${response.statusText}`, path: '' }
  try {
    told = JSON.parse(await response.text()).error
  } catch {} // no answer of the API's
  if (told.code === 'no_key') {
    lock()
    dispatchEvent(new Event('locked'))
  }
  throw new ApiError(response.status, told)
}

/**
 * The path of a resource of the API. "." and ".." are steps to a browser, however they are written: with a blank behind, they
 * are names that the daemon refuses in its own words.
 * @param {...string} parts
 */
export const at = (...parts) => ['/v1', ...parts.map((one) => encodeURIComponent(/^\.{1,2}$/.test(one) ? `${one} ` : one))].join('/')

/**
 * What a merge patch (RFC 7396) has to say to make one object of another.
 * @param {any} before @param {any} after @returns {any}
 */
export function patchOf(before, after) {
  const patch = /** @type {Record<string, any>} */ ({})
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const [was, is] = [before[key] ?? null, after[key] ?? null]
    if (same(was, is)) continue
    patch[key] = isObject(was) && isObject(is) ? patchOf(was, is) : is
  }
  return patch
}

/** @param {any} value */
const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value)

/** @param {any} one @param {any} other */
export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other)
