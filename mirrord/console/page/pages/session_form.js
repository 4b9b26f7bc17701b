// @ts-check
// A session: its type, source port and destination port, and the rest folded away. The daemon checks it as it is written.
import { ask, at, patchOf } from '../api.js'
import { useCheck } from '../check.js'
import { built, Fields, written } from '../fields.js'
import { html, useEffect, useState } from '../html.js'
import { refresh } from '../live.js'
import { useList } from '../objects.js'
import { Button, Choice, Dialog, Notice, Problem, Text, say, useAttempt } from '../parts.js'
import { kindsOf, useSchemas } from '../schema.js'
import { t } from '../words.js'
import { Port } from './port.js'

const OWN = ['name', 'description', 'direction', 'source', 'destination', 'filter', 'snaplen']
const TOLD = ['origin', 'running', 'warnings', 'vni']
const NOT_ASKED = [...OWN, ...TOLD, 'enabled']

/** @param {any} session */
const formOf = (session) => session
  ? Object.fromEntries(Object.entries(session).filter(([key]) => !TOLD.includes(key)).map(([key, value]) => [key, written(value)]))
  : { name: '', description: '', direction: 'both', source: { type: 'device' }, destination: { type: 'device' }, filter: '', snaplen: '' }

/** @param {{mirror: any, session?: any, onClose: () => void}} props */
export function SessionForm({ mirror, session, onClose }) {
  const { schemas, problem: undescribed } = useSchemas()
  const filters = useList('filters')
  const sources = useList('sources')
  const [form, setForm] = useState(/** @type {any} */ (null))
  const [begun, setBegun] = useState(/** @type {any} */ (null)) // as it was when the form was opened, and its tag
  const [tried, setTried] = useState(false)
  const { busy, problem, attempt, setProblem } = useAttempt()
  useEffect(() => {
    if (!session) return setForm(formOf(undefined))
    ask('GET', at('mirrors', mirror.name, 'sessions', session.name)).then(({ body, tag }) => {
      setForm(formOf(body))
      setBegun({ form: formOf(body), tag })
    }, setProblem)
  }, [])
  const devices = new Set((sources ?? []).map((/** @type {any} */ one) => one.device))
  const body = form && schemas ? bodyOf(form, schemas, devices) : null
  const name = form?.name.trim() || session?.name || 'new'
  const checked = useCheck(['mirrors', mirror.name, 'sessions', name], body && { ...body, name })
  const title = session ? t('Change session {name}', { name: session.name }) : t('Add session')
  if (!form || !schemas || !body) return html`<${Dialog} title=${title} onClose=${onClose} actions=${html`<${Button} onClick=${onClose}>${t('Cancel')}<//>`}><${Problem} of=${problem ?? undescribed} /><//>`

  const others = mirror.sessions.map((/** @type {any} */ one) => one.name).filter((/** @type {string} */ one) => one !== session?.name)
  const naming = !form.name.trim() && tried ? [t('A name is needed.')] : others.includes(form.name.trim()) ? [t('There is one of this name already.')] : form.name.trim() ? checked.problems.name ?? [] : []
  /** What is said of a key; what is only not there yet is no fault before it is sent. @param {string} key */
  const told = (key) => {
    const value = key.split('.').reduce((/** @type {any} */ one, part) => one?.[part], form)
    return { problems: tried || value ? checked.problems[key] ?? [] : [], warnings: checked.warnings[key] ?? [] }
  }
  /** @param {any} changes */
  const set = (changes) => setForm({ ...form, ...changes })
  const save = () => {
    setTried(true)
    if (!form.name.trim() || naming.length || (checked.done && Object.keys(checked.problems).length)) return
    attempt(async () => {
      const path = at('mirrors', mirror.name, 'sessions')
      if (session) await ask('PATCH', `${path}/${encodeURIComponent(session.name)}`, patchOf(bodyOf(begun.form, schemas, devices), body), { 'If-Match': begun.tag })
      else await ask('POST', path, body)
      await refresh()
      say(session ? t('{name} was changed.', { name }) : t('{name} was added.', { name }))
      onClose()
    })
  }
  const common = { form, set, schemas, told, sources: sources ?? [] }
  const rest = Object.keys(schemas.Session.properties).filter((key) => !NOT_ASKED.includes(key))
  /** What has no field beside which it could stand. @param {Record<string, string[]>} said */
  const unseen = (said) => Object.entries(said).filter(([key]) => !['name', ...rest, ...OWN].includes(key.split('.')[0])).flatMap(([, told]) => told)
  return html`<${Dialog} title=${title} wide onClose=${onClose} onSubmit=${save} actions=${html`
      <${Button} onClick=${onClose}>${t('Cancel')}<//><${Button} type="submit" kind="primary" busy=${busy}>${t('OK')}<//>`}>
    <div class="columns">
      <${Text} label=${t('Name')} required value=${form.name} onValue=${(/** @type {string} */ one) => set({ name: one })} problems=${naming} />
      <${Choice} label=${t('Type')} required value=${form.direction} onValue=${(/** @type {string} */ direction) => set({ direction })} ...${told('direction')} options=${[
        { value: 'both', label: t('Bidirection: received and sent') }, { value: 'ingress', label: t('Ingress: what the source port receives') }, { value: 'egress', label: t('Egress: what the source port sends') }]} />
    </div>
    <${Port} side="source" title=${t('Source port')} ...${common} />
    <${Port} side="destination" title=${t('Destination port')} ...${common} />
    <div class="columns">
      <${Choice} label=${t('Filter')} value=${form.filter} onValue=${(/** @type {string} */ filter) => set({ filter })} ...${told('filter')}
        options=${[{ value: '', label: t('none: every frame') }, ...(filters ?? []).map((/** @type {any} */ one) => ({ value: one.name, label: one.description ? `${one.name}: ${one.description}` : one.name }))]} />
      <${Text} label=${t('Bytes kept of each frame')} value=${form.snaplen} onValue=${(/** @type {string} */ snaplen) => set({ snaplen })} ...${told('snaplen')} help=${t('Empty or 0: all. "headers": up to the end of the headers.')} />
    </div>
    <${Text} label=${t('Description')} value=${form.description} onValue=${(/** @type {string} */ description) => set({ description })} ...${told('description')} />
    <details open=${rest.some((key) => Object.keys(checked.problems).some((one) => one.split('.')[0] === key))}><summary>${t('More: limits, sampling, capture and transmit')}</summary>
      <div class="columns"><${Fields} keys=${rest} properties=${schemas.Session.properties} schemas=${schemas} form=${form} onForm=${setForm} told=${told} /></div></details>
    ${unseen(checked.problems).map((one) => html`<${Notice} kind="bad">${one}<//>`)}
    ${unseen(checked.warnings).map((one) => html`<${Notice} kind="warn">${one}<//>`)}
    <${Problem} of=${problem} />
  <//>`
}

/** The session as the API takes it. @param {any} form @param {any} schemas @param {Set<string>} devices that are there */
function bodyOf(form, schemas, devices) {
  const { source, destination, ...rest } = form
  /** @param {'source' | 'destination'} side @param {any} one */
  const port = (side, one) => built(one, kindsOf(schemas, side).get(one.type)?.properties, schemas, devices)
  return { ...built(rest, schemas.Session.properties, schemas), source: port('source', source), destination: port('destination', destination) }
}
