// @ts-check
// The places of the page, in the order of the menu. The first is there at once; a browser fetches the others after it was drawn.
// What is each host's own is not a cluster's.
import { about } from './about.js'
import { html, useEffect, useState } from './html.js'
import { Overview } from './pages/overview.js'
import { Head, Problem } from './parts.js'
import { t } from './words.js'

/**
 * @typedef {{name: string, title: () => string, page?: any, fetch: () => Promise<any>, of?: 'host' | 'cluster'}} Place
 * @type {Place[]}
 */
const PLACES = [
  { name: 'overview', title: () => t('Overview'), page: Overview, fetch: async () => Overview },
  { name: 'hosts', title: () => t('Hosts'), fetch: async () => (await import('./pages/hosts.js')).Hosts, of: 'cluster' },
  { name: 'mirrors', title: () => t('Port mirroring'), fetch: async () => (await import('./pages/mirrors.js')).Mirrors },
  { name: 'networks', title: () => t('Flow networks'), fetch: async () => (await import('./pages/networks.js')).Networks },
  { name: 'filters', title: () => t('Filters'), fetch: async () => (await import('./pages/filters.js')).Filters },
  { name: 'packets', title: () => t('Live packets'), fetch: async () => (await import('./pages/packets.js')).Packets, of: 'host' },
  { name: 'charts', title: () => t('Charts'), fetch: async () => (await import('./pages/charts.js')).Charts, of: 'host' },
  { name: 'doctor', title: () => t('Doctor'), fetch: async () => (await import('./pages/doctor.js')).Doctor, of: 'host' },
  { name: 'audit', title: () => t('Audit'), fetch: async () => (await import('./pages/audit.js')).Audit },
]

export const places = () => PLACES.filter((one) => !one.of || (one.of === 'cluster') === about.value.cluster)

/** Have all of them there, for when mirrorctl console does not run any more, too. */
export async function fetchAll() {
  await Promise.all(places().map(have))
}

/** @param {Place} place */
async function have(place) {
  place.page ??= await place.fetch()
}

/** A place, as soon as it is there. @param {{place: Place, rest: string[]}} props */
export function Shown({ place, rest }) {
  const [told, setTold] = useState(/** @type {{problem?: any}} */ ({}))
  useEffect(() => { if (!place.page) have(place).then(() => setTold({}), (problem) => setTold({ problem })) }, [])
  return place.page ? html`<${place.page} rest=${rest} />` : html`<${Head} title=${place.title()} /><${Problem} of=${told.problem} />`
}
