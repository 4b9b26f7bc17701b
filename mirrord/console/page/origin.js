// @ts-check
// Where an object is defined, and so whether it can be changed here.
import { about } from './about.js'
import { html } from './html.js'
import { Icon } from './parts.js'
import { t } from './words.js'

/** @typedef {{file?: string, cluster?: boolean, state?: boolean}} Origin of the API: a cluster's object can be changed where it has `state`, too */

/** Whether this console may change it. @param {Origin} origin */
export const changeable = (origin) => !about.value.read_only && origin.state === true

/** That it is read alone, behind its name. @param {{origin: Origin}} props */
export const Tag = ({ origin }) => origin.state ? null : html`<span class="tag" title=${origin.file}><${Icon} name="lock" /> ${origin.file ? t('from a file') : t('of the cluster')}</span>`

/** @param {Origin} origin */
export const definedText = (origin) => origin.file ? t('in {file}: it is changed there', { file: origin.file })
  : origin.state ? about.value.cluster ? t('in the cluster, for each of its hosts') : t('at run time; it comes back after a restart')
  : t('in the cluster: it is changed by mirrorctl --cluster console')
