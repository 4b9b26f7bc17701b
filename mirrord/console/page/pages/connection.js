// @ts-check
// Whether a cluster's agent sees the store, and its daemon.
import { html } from '../html.js'
import { Notice } from '../parts.js'
import { t } from '../words.js'

/** @param {{cluster: any}} props as `status` has it */
export function Connection({ cluster }) {
  const problems = [cluster.problem, cluster.own_problem, cluster.daemon_problem, ...cluster.alarms].filter(Boolean)
  return html`${!cluster.connected && html`<${Notice} kind="bad">${t('The store is not heard of: what follows is of {host} alone.', cluster)}<//>`}
    ${problems.map((/** @type {string} */ one) => html`<${Notice} kind="bad">${one}<//>`)}`
}
