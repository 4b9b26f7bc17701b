// @ts-check
// One filter: its rules in order, what each took, and which of them takes a packet. Changes are kept here until they are saved.
import { about } from '../about.js'
import { ask, at, same } from '../api.js'
import { useCheck } from '../check.js'
import { directionText, scaled } from '../format.js'
import { html, useEffect, useRef, useState } from '../html.js'
import { live, refresh } from '../live.js'
import { reload, usersOf } from '../objects.js'
import { changeable, definedText } from '../origin.js'
import { Button, Empty, Head, Icon, Link, Notice, Problem, say, useAttempt } from '../parts.js'
import { Table } from '../table.js'
import { plural, t } from '../words.js'
import { Explain } from './explain.js'
import { RuleForm, bare, ruleText } from './rule.js'

const EVERY = 3000 // ms: what rules counted is in no event

/** Rules in the order in which they are tried. @param {any[]} rules */
const inOrder = (rules) => [...rules].sort((one, other) => one.priority - other.priority)

/** @param {{name: string}} props */
export function Filter({ name }) {
  const { mirrors, changed: news } = live.use()
  const { cluster } = about.use()
  const [kept, setKept] = useState(/** @type {any} */ (null))
  const [rules, setRules] = useState(/** @type {any[]} */ ([]))
  const [open, setOpen] = useState(/** @type {{rule?: any} | null} */ (null))
  const [dragged, setDragged] = useState(-1)
  const { busy, problem, attempt, setProblem } = useAttempt()
  const edited = useRef(false) // what others change is not put in the place of what is changed here
  const load = async () => {
    const { body, tag } = await ask('GET', at('filters', name))
    setKept({ ...body, tag, rules: inOrder(body.rules.map(bare)) })
    setRules(inOrder(body.rules.map(bare)))
  }
  useEffect(() => void (edited.current || load().then(() => setProblem(null), setProblem)), [name, news])
  useEffect(() => {
    const timer = setInterval(() => document.hidden || refresh().catch(() => {}), EVERY)
    return () => clearInterval(timer)
  }, [])
  const changed = (edited.current = kept !== null && !same(rules, kept.rules))
  const { problems, warnings } = useCheck(['filters', name], changed ? { description: kept.description, rules } : null)
  if (kept === null) return html`<${Head} title=${name} />${problem && html`<${Empty}><p>${problem.message}</p><${Link} to=${['filters']}>${t('Filters')}<//><//>`}`
  const users = usersOf(mirrors, name)
  const counts = countsOf(users)
  const changes = changeable(kept.origin)
  /** The rules change places; the priorities stay where they are. @param {number} from @param {number} to */
  const move = (from, to) => {
    if (from < 0 || to < 0 || to >= rules.length || from === to) return
    const priorities = rules.map((one) => one.priority)
    const moved = [...rules]
    moved.splice(to, 0, ...moved.splice(from, 1))
    setRules(moved.map((one, index) => ({ ...one, priority: priorities[index] })))
  }
  /** @param {any} rule @param {any} before */
  const keep = (rule, before) => { setRules(inOrder([...rules.filter((one) => one !== before), rule])); setOpen(null) }
  const save = () => attempt(async () => {
    await ask('PATCH', at('filters', name), { rules }, { 'If-Match': kept.tag })
    await Promise.all([load(), reload('filters')])
    say(t('{name} was changed.', { name }))
  })
  const told = changed ? Object.values(problems).flat() : []
  return html`<${Head} title=${name} lead=${kept.description}>
      ${changes && html`<${Button} kind=${changed ? '' : 'primary'} onClick=${() => setOpen({})}>${t('Add rule')}<//>`}<//>
    <dl class="facts">
      <dt>${t('Used by')}</dt><dd>${users.length ? users.slice(0, 12).map((one, index) => html`${index ? ', ' : ''}<${Link} to=${['mirrors', one.mirror]}>${one.mirror}/${one.session.name}<//>`) : t('nobody')}${users.length > 12 && ` … ${users.length}`}</dd>
      <dt>${t('Defined')}</dt><dd>${definedText(kept.origin)}</dd>
    </dl>
    ${changed && html`<div class="unsaved" role="group" aria-label=${t('Changes that are not saved')}><p>${plural(users.length, 'Not saved yet. When it is, 1 session goes by the new rules at once.', 'Not saved yet. When it is, {n} sessions go by the new rules at once.')}</p>
      <${Button} onClick=${() => attempt(load)}>${t('Discard')}<//><${Button} kind="primary" busy=${busy || told.length > 0} onClick=${save}>${t('Save')}<//></div>`}
    ${told.map((one) => html`<${Notice} kind="bad">${one}<//>`)}
    ${changed && Object.values(warnings).flat().map((one) => html`<${Notice} kind="warn">${one}<//>`)}
    <${Problem} of=${problem} />
    <${Table} label=${t('Rules')} rows=${rules.map((rule, index) => ({ rule, index }))} rowKey=${(/** @type {any} */ one) => String(one.rule.priority)}
      rowProps=${(/** @type {any} */ one) => changes ? {
        draggable: true, class: dragged === one.index ? 'dragged' : '',
        onDragStart: () => setDragged(one.index), onDragEnd: () => setDragged(-1),
        onDragOver: (/** @type {Event} */ event) => event.preventDefault(),
        onDrop: (/** @type {Event} */ event) => { event.preventDefault(); move(dragged, one.index) },
      } : {}} columns=${[
      { key: 'priority', title: t('Priority'), number: true, cell: (/** @type {any} */ one) => html`${changes && html`<span class="grip"><${Icon} name="grip" /></span>`}${one.rule.priority}` },
      { key: 'direction', title: t('Direction'), cell: (/** @type {any} */ one) => directionText(one.rule.direction ?? 'both') },
      { key: 'action', title: t('Action'), cell: (/** @type {any} */ one) => html`<span class="state ${one.rule.action === 'accept' ? 'ok' : 'off'}"><${Icon} name=${one.rule.action === 'accept' ? 'ok' : 'close'} />${one.rule.action === 'accept' ? t('accept') : t('reject')}</span>` },
      { key: 'match', title: t('Matches'), wide: true, cell: (/** @type {any} */ one) => html`<span title=${ruleText(one.rule)}>${ruleText(one.rule)}</span>` },
      { key: 'count', title: t('Frames'), number: true, cell: (/** @type {any} */ one) => changed || counts === null ? html`<span class="quiet">–</span>` : one.rule.action === 'accept' ? scaled(counts[one.rule.priority] ?? 0) : html`<span class="quiet">${t('not counted')}</span>` },
      { key: 'actions', title: t('Operations'), hidden: true, cell: (/** @type {any} */ one) => changes && html`<div class="actions">
        <button type="button" class="plain" aria-label=${t('Move rule {n} up', { n: one.rule.priority })} disabled=${one.index === 0} onClick=${() => move(one.index, one.index - 1)}><${Icon} name="up" /></button>
        <button type="button" class="plain" aria-label=${t('Move rule {n} down', { n: one.rule.priority })} disabled=${one.index === rules.length - 1} onClick=${() => move(one.index, one.index + 1)}><${Icon} name="down" /></button>
        <${Button} small aria-label=${t('Change rule {n}', { n: one.rule.priority })} onClick=${() => setOpen({ rule: one.rule })}>${t('Change')}<//>
        <${Button} small aria-label=${t('Delete rule {n}', { n: one.rule.priority })} disabled=${rules.length === 1} onClick=${() => setRules(rules.filter((rule) => rule !== one.rule))}>${t('Delete')}<//></div>` },
    ]} />
    ${counts === null && users.length > 0 && !cluster && html`<p class="quiet note">${t('No session counts its rules: count_rules of a session does.')}</p>`}
    <${Explain} filter=${name} unsaved=${changed} />
    ${open && html`<${RuleForm} rule=${open.rule} rules=${rules} filter=${name} onClose=${() => setOpen(null)} onRule=${(/** @type {any} */ rule) => keep(rule, open.rule)} />`}`
}

/** Frames by the rule that took them; null where no session counts. @param {{session: any}[]} users */
function countsOf(users) {
  const counted = users.flatMap((one) => one.session.running).filter((/** @type {any} */ row) => row.rules)
  if (!counted.length) return null
  const counts = /** @type {Record<string, number>} */ ({})
  for (const row of counted) for (const [rule, n] of Object.entries(row.rules)) counts[rule] = (counts[rule] ?? 0) + Number(n)
  return counts
}
