// @ts-check
// What this console is: whose socket it asks at, whether that is a whole cluster's, and whether it may change anything.
import { ask } from './api.js'
import { Store } from './store.js'

export const about = new Store({ version: '', read_only: false, cluster: false, socket: '' })

/** A window of its own, by a new token. */
export async function openAnother() {
  const { token } = (await ask('POST', '/console/token')).body
  open(`/#token=${token}`, '_blank', 'noopener')
}
