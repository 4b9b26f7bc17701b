// @ts-check
// The places of the page, in the order of the menu. What is each host's own is not a cluster's.
import { about } from './about.js'
import { t } from './words.js'
import { Overview } from './pages/overview.js'
import { Hosts } from './pages/hosts.js'
import { Mirrors } from './pages/mirrors.js'
import { Networks } from './pages/networks.js'
import { Filters } from './pages/filters.js'
import { Packets } from './pages/packets.js'
import { Charts } from './pages/charts.js'
import { Doctor } from './pages/doctor.js'
import { Audit } from './pages/audit.js'

/** @type {{name: string, title: () => string, page: any, of?: 'host' | 'cluster'}[]} */
const PLACES = [
  { name: 'overview', title: () => t('Overview'), page: Overview },
  { name: 'hosts', title: () => t('Hosts'), page: Hosts, of: 'cluster' },
  { name: 'mirrors', title: () => t('Port mirroring'), page: Mirrors },
  { name: 'networks', title: () => t('Flow networks'), page: Networks },
  { name: 'filters', title: () => t('Filters'), page: Filters },
  { name: 'packets', title: () => t('Live packets'), page: Packets, of: 'host' },
  { name: 'charts', title: () => t('Charts'), page: Charts, of: 'host' },
  { name: 'doctor', title: () => t('Doctor'), page: Doctor, of: 'host' },
  { name: 'audit', title: () => t('Audit'), page: Audit },
]

export const places = () => PLACES.filter((one) => !one.of || (one.of === 'cluster') === about.value.cluster)
