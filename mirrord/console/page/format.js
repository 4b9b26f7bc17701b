// @ts-check
// Numbers, times and parts of objects in words.
import { language, t } from './words.js'

const SCALES = ['', 'k', 'M', 'G', 'T', 'P']

/** 1234567 as "1.23 M". @param {number} value @param {string} [unit] */
export function scaled(value, unit = '') {
  let step = 0
  for (; Math.abs(value) >= 999.5 && step < SCALES.length - 1; step++) value /= 1000
  const digits = step === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2
  const small = step === 0 && value > 0 && value < 10 && value % 1 !== 0
  const gap = step > 0 || unit ? '\u202f' : ''
  return `${value.toFixed(small ? 1 : digits)}${gap}${SCALES[step]}${unit}`
}

/** A part of a whole; what is there at all is not rounded to nothing. @param {number} part @param {number} whole */
export function share(part, whole) {
  if (part === 0 || whole === 0) return '0\u202f%'
  const percent = (100 * part) / whole
  return percent < 0.01 ? '<\u202f0.01\u202f%' : `${percent.toPrecision(percent >= 99.5 ? 3 : 2)}\u202f%`
}

/** @param {number | string | Date} time */
export const clock = (time) => new Date(time).toLocaleString(language(), { dateStyle: 'short', timeStyle: 'medium', hourCycle: 'h23' })

/** What a session's source is. @param {any} source */
export function sourceText(source) {
  if (typeof source === 'string') return source
  const names = [source.vm, source.container, source.label, source.bridge, source.device, source.local]
  const name = [names.find((one) => one != null) ?? ''].flat().join(', ')
  const vlan = source.vlan == null ? '' : ` vlan ${[source.vlan].flat().join(', ')}`
  const nic = source.nic == null ? '' : ` nic ${source.nic}`
  const vni = source.vni == null ? '' : ` vni ${source.vni}`
  return `${source.type === 'device' ? '' : `${source.type} `}${name}${nic}${vlan}${vni}`
}

/** Where its copies go. @param {any} destination */
export function destinationText(destination) {
  const { type } = destination
  const to = [destination.remote ?? destination.vm ?? destination.device ?? destination.path ?? destination.listen ?? ''].flat().join(', ')
  const more = ['nic', 'vlan', 'vni', 'key', 'session_id'].filter((key) => destination[key] != null)
  return [type === 'device' ? '' : type, to, ...more.map((key) => `${key} ${destination[key]}`)].filter(Boolean).join(' ')
}

/** A direction, by the documents' words. @param {string} direction */
export const directionText = (direction) =>
  direction === 'ingress' ? t('Ingress') : direction === 'egress' ? t('Egress') : t('Bidirection')

/** Why frames were lost, by the reasons that are counted. @param {string} reason */
export function causeText(reason) {
  const words = /** @type {Record<string, string>} */ ({
    ring_full: t('the ring was full'),
    send_error: t('the kernel refused the copy'),
    mtu_exceeded: t('larger than the path MTU'),
    no_route: t('no route to the destination'),
    malformed: t('malformed frame'),
    write_error: t('the file could not be written'),
    link_down: t('the link was down'),
    queue_full: t('the queue was full'),
    all: t('its host tells why'),
  })
  return words[reason] ?? reason
}

/** @param {Record<string, number>} counts */
export const total = (counts) => Object.values(counts).reduce((sum, one) => sum + one, 0)
