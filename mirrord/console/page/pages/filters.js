// @ts-check
// Filters: every one, and who uses it.
import { about } from '../about.js'
import { ask, at } from '../api.js'
import { html, useState } from '../html.js'
import { live } from '../live.js'
import { reload, useList, usersOf } from '../objects.js'
import { Tag, changeable } from '../origin.js'
import { Button, Confirm, Dialog, Empty, Head, Link, Problem, Text, hash, say, useAttempt } from '../parts.js'
import { Table } from '../table.js'
import { plural, t } from '../words.js'
import { Filter } from './filter.js'
import { Ahead } from './mirror_actions.js'

/** @param {{rest: string[]}} props */
export const Filters = ({ rest }) => rest.length ? html`<${Filter} key=${rest[0]} name=${rest[0]} />` : html`<${List} />`

function List() {
  const filters = useList('filters')
  const { mirrors } = live.use()
  const { read_only } = about.use()
  const [open, setOpen] = useState(/** @type {{what: string, filter?: any} | null} */ (null))
  const close = () => setOpen(null)
  return html`<${Head} title=${t('Filters')} lead=${t('A filter is a list of rules, tried in order; the first that matches decides. What none matches is not copied.')}>
      ${!read_only && html`<${Button} kind="primary" onClick=${() => setOpen({ what: 'form' })}>${t('Create filter')}<//>`}
    <//>
    ${filters?.length === 0 && html`<${Empty}><p>${t('There is no filter yet. A session without one copies every frame.')}</p><//>`}
    ${Boolean(filters?.length) && html`<${Table} label=${t('Filters')} rows=${filters} rowKey=${(/** @type {any} */ one) => one.name} columns=${[
      { key: 'name', title: t('Name'), cell: (/** @type {any} */ one) => html`<${Link} to=${['filters', one.name]}>${one.name}<//> <${Tag} origin=${one.origin} />`, order: (/** @type {any} */ one) => one.name },
      { key: 'rules', title: t('Rules'), number: true, cell: (/** @type {any} */ one) => one.rules.length, order: (/** @type {any} */ one) => one.rules.length },
      { key: 'users', title: t('Sessions'), number: true, cell: (/** @type {any} */ one) => usersOf(mirrors, one.name).length },
      { key: 'description', title: t('Description'), wide: true, cell: (/** @type {any} */ one) => html`<span title=${one.description}>${one.description}</span>` },
      { key: 'actions', title: t('Operations'), hidden: true, cell: (/** @type {any} */ one) => changeable(one.origin) && html`<div class="actions">
        <${Button} small aria-label=${t('Delete {name}', { name: one.name })} onClick=${() => setOpen({ what: 'delete', filter: one })}>${t('Delete')}<//></div>` },
    ]} />`}
    ${open?.what === 'form' && html`<${Create} taken=${(filters ?? []).map((/** @type {any} */ one) => one.name)} onClose=${close} />`}
    ${open?.what === 'delete' && html`<${Confirm} title=${t('Delete {name}', { name: open.filter.name })} action=${t('Delete')} danger onClose=${close}
      does=${[plural(open.filter.rules.length, 'Its rule is forgotten. This cannot be undone.', 'Its {n} rules are forgotten. This cannot be undone.'), usersOf(mirrors, open.filter.name).length > 0 && t('Sessions use it: it will be refused.')]} ahead=${html`<${Ahead} method="DELETE" path=${at('filters', open.filter.name)} />`}
      run=${async () => { await ask('DELETE', at('filters', open.filter.name)); await reload('filters'); say(t('{name} was deleted.', { name: open.filter.name })) }} />`}`
}

/** A filter has a rule from the beginning: this one copies everything, until it is changed. */
const FIRST = { priority: 1, action: 'accept' }

/** @param {{taken: string[], onClose: () => void}} props */
function Create({ taken, onClose }) {
  const [form, setForm] = useState({ name: '', description: '' })
  const [tried, setTried] = useState(false)
  const { busy, problem, attempt } = useAttempt()
  const name = form.name.trim()
  const naming = !name && tried ? [t('A name is needed.')] : taken.includes(name) ? [t('There is one of this name already.')] : []
  const create = () => {
    setTried(true)
    if (!name || naming.length) return
    attempt(async () => {
      await ask('PUT', at('filters', name), { description: form.description, rules: [FIRST] }, { 'If-None-Match': '*' })
      await reload('filters')
      say(t('{name} was created.', { name }))
      onClose()
      location.hash = hash('filters', name)
    })
  }
  return html`<${Dialog} title=${t('Create filter')} onClose=${onClose} onSubmit=${create} actions=${html`
      <${Button} onClick=${onClose}>${t('Cancel')}<//><${Button} type="submit" kind="primary" busy=${busy}>${t('OK')}<//>`}>
    <${Text} label=${t('Name')} required value=${form.name} problems=${naming} onValue=${(/** @type {string} */ one) => setForm({ ...form, name: one })} />
    <${Text} label=${t('Description')} value=${form.description} help=${t('May be left empty.')} onValue=${(/** @type {string} */ description) => setForm({ ...form, description })} />
    <p class="quiet">${t('It begins with one rule that accepts everything; change it on the next page.')}</p>
    <${Problem} of=${problem} />
  <//>`
}
