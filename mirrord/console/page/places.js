// @ts-check
// The places of the page, in the order of the menu.
import { t } from './words.js'
import { Overview } from './pages/overview.js'
import { Mirrors } from './pages/mirrors.js'

/** @type {{name: string, title: () => string, page: any}[]} */
export const PLACES = [
  { name: 'overview', title: () => t('Overview'), page: Overview },
  { name: 'mirrors', title: () => t('Port mirroring'), page: Mirrors },
]
