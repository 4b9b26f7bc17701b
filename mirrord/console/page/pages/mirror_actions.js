// @ts-check
// What can be done to a mirror, each with what it will do said first.
import { ask, at } from '../api.js'
import { Confirm, Button, Dialog, Notice, Problem, Text, hash, say, useAttempt } from '../parts.js'
import { html, useEffect, useState } from '../html.js'
import { refresh } from '../live.js'
import { changeable } from '../origin.js'
import { plural, t } from '../words.js'

/** What the daemon says beforehand of a change. @param {{method: string, path: string, body?: any}} props */
export function Ahead({ method, path, body }) {
  const [told, setTold] = useState(/** @type {any} */ (null))
  useEffect(() => {
    ask(method, `${path}?dry_run=true`, body).then((answer) => setTold(answer.body), (problem) => setTold({ problem }))
  }, [])
  if (told?.problem) return html`<${Notice} kind="bad">${t('It would be refused: {why}', { why: told.problem.message })}<//>`
  const sessions = told?.sessions ?? []
  return html`<div class="ahead" aria-live="polite">
    ${sessions.length > 0 && html`<ul>${sessions.slice(0, MOST).map((/** @type {any} */ one) => html`<li><strong>${one.mirror}/${one.session}</strong> ${one.source}: ${effectText(one.effect)}</li>`)}
      ${sessions.length > MOST && html`<li>${t('and {n} more', { n: sessions.length - MOST })}</li>`}</ul>`}
    ${(told?.warnings ?? []).map((/** @type {any} */ one) => html`<${Notice} kind="warn">${one.message}<//>`)}</div>`
}

const MOST = 6 // sessions that are named

/** What becomes of a session. @param {string} effect */
const effectText = (effect) => (/** @type {Record<string, string>} */ ({
  start: t('begins to mirror'), stop: t('stops'), restart: t('ends and begins anew: frames between the two are not mirrored'),
  change: t('goes on without losing a frame'), rename: t('goes on under another name'), wait: t('cannot run yet'),
})[effect] ?? effect)

/** @param {{mirror: any, few?: boolean}} props */
export function MirrorActions({ mirror, few = false }) {
  const [open, setOpen] = useState('')
  const { name, enabled } = mirror
  const [close, n] = [() => setOpen(''), mirror.sessions.length]
  if (!changeable(mirror.origin)) return null
  /** @param {string} method @param {string} path @param {string} said */
  const run = async (method, path, said) => {
    await ask(method, path)
    await refresh()
    say(said)
  }
  const path = at('mirrors', name)
  return html`<div class="actions">
    ${enabled ? html`<${Button} small=${few} onClick=${() => setOpen('disable')}>${t('Disable')}<//>` : html`<${Button} small=${few} onClick=${() => setOpen('enable')}>${t('Enable')}<//>`}
    <${Button} small=${few} onClick=${() => setOpen('change')}>${t('Change name and description')}<//>
    <${Button} small=${few} onClick=${() => setOpen('delete')}>${t('Delete')}<//>
    ${open === 'enable' && html`<${Confirm} title=${t('Enable {name}', { name })} action=${t('Enable')} onClose=${close}
      does=${[plural(n, '1 session begins to copy.', '{n} sessions begin to copy.'), t('Copies may take bandwidth of the physical network: see that your services can spare it.')]} ahead=${html`<${Ahead} method="POST" path=${`${path}/enable`} />`}
      run=${() => run('POST', `${path}/enable`, t('{name} was enabled.', { name }))} />`}
    ${open === 'disable' && html`<${Confirm} title=${t('Disable {name}', { name })} action=${t('Disable')} onClose=${close}
      does=${[plural(n, '1 session stops copying at once.', '{n} sessions stop copying at once.'), t('It stays as it is configured, and can be enabled again.')]} ahead=${html`<${Ahead} method="POST" path=${`${path}/disable`} />`}
      run=${() => run('POST', `${path}/disable`, t('{name} was disabled.', { name }))} />`}
    ${open === 'delete' && html`<${Confirm} title=${t('Delete {name}', { name })} action=${t('Delete')} danger onClose=${close}
      does=${[plural(n, '1 session stops copying at once, and is deleted with it.', '{n} sessions stop copying at once, and are deleted with it.'), t('Their counters are forgotten. This cannot be undone.'), mirror.flow_network && t('The flow network {name} is free for another one.', { name: mirror.flow_network })]} ahead=${html`<${Ahead} method="DELETE" path=${path} />`}
      run=${async () => { await run('DELETE', path, t('{name} was deleted.', { name })); location.hash = hash('mirrors') }} />`}
    ${open === 'change' && html`<${Change} mirror=${mirror} onClose=${close} />`}
  </div>`
}

/** Name and description; what somebody else changed meanwhile is not written over. @param {{mirror: any, onClose: () => void}} props */
function Change({ mirror, onClose }) {
  const [form, setForm] = useState({ name: mirror.name, description: mirror.description })
  const [tag, setTag] = useState('')
  const { busy, problem, attempt, setProblem } = useAttempt()
  useEffect(() => {
    ask('GET', at('mirrors', mirror.name)).then((answer) => {
      setTag(answer.tag)
      setForm({ name: answer.body.name, description: answer.body.description })
    }, setProblem)
  }, [])
  const save = () => attempt(async () => {
    await ask('PATCH', at('mirrors', mirror.name), form, { 'If-Match': tag })
    await refresh()
    say(t('{name} was changed.', { name: form.name }))
    onClose()
    if (location.hash.startsWith(hash('mirrors', mirror.name))) location.hash = hash('mirrors', form.name)
  })
  return html`<${Dialog} title=${t('Change name and description of {name}', { name: mirror.name })} onClose=${onClose} onSubmit=${save} actions=${html`
      <${Button} onClick=${onClose}>${t('Cancel')}<//><${Button} type="submit" kind="primary" busy=${busy || !tag}>${t('OK')}<//>`}>
    <${Text} label=${t('Name')} required value=${form.name} onValue=${(/** @type {string} */ name) => setForm({ ...form, name })} help=${t('Its sessions go on, and count on.')} />
    <${Text} label=${t('Description')} value=${form.description} onValue=${(/** @type {string} */ description) => setForm({ ...form, description })} />
    <${Problem} of=${problem} />
  <//>`
}
