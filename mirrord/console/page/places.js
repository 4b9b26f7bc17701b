// @ts-check
// The places of the page, in the order of the menu.
import { t } from './words.js'
import { Overview } from './pages/overview.js'
import { Mirrors } from './pages/mirrors.js'
import { Networks } from './pages/networks.js'
import { Filters } from './pages/filters.js'
import { Packets } from './pages/packets.js'
import { Charts } from './pages/charts.js'
import { Doctor } from './pages/doctor.js'
import { Audit } from './pages/audit.js'

/** @type {{name: string, title: () => string, page: any}[]} */
export const PLACES = [
  { name: 'overview', title: () => t('Overview'), page: Overview },
  { name: 'mirrors', title: () => t('Port mirroring'), page: Mirrors },
  { name: 'networks', title: () => t('Flow networks'), page: Networks },
  { name: 'filters', title: () => t('Filters'), page: Filters },
  { name: 'packets', title: () => t('Live packets'), page: Packets },
  { name: 'charts', title: () => t('Charts'), page: Charts },
  { name: 'doctor', title: () => t('Doctor'), page: Doctor },
  { name: 'audit', title: () => t('Audit'), page: Audit },
]
