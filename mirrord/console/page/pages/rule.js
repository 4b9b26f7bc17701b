// @ts-check
// A rule in words, and its form.
import { useCheck } from '../check.js'
import { built, Fields, written } from '../fields.js'
import { html, useState } from '../html.js'
import { Button, Choice, Dialog, Notice, Problem, Text } from '../parts.js'
import { useSchemas } from '../schema.js'
import { t } from '../words.js'

const USUAL = ['family', 'protocol', 'source', 'source_ports', 'destination', 'destination_ports']
const OWN = ['priority', 'action', 'direction']

/** Without the keys that match anything. @param {any} rule */
export const bare = (rule) => Object.fromEntries(Object.entries(rule).filter(([, value]) => value !== null))

/** What a rule asks for. @param {any} rule */
export function ruleText(rule) {
  const asked = Object.entries(rule).filter(([key, value]) => !OWN.includes(key) && value !== null)
  return asked.length ? asked.map(([key, value]) => `${ruleLabel(key)} ${[value].flat().join(', ')}`).join(' · ') : t('everything')
}

/** @param {string} key */
const ruleLabel = (key) => (/** @type {Record<string, string>} */ ({
  protocol: t('protocol'), source: t('source'), destination: t('destination'),
  source_ports: t('source ports'), destination_ports: t('destination ports'), family: t('family'),
})[key] ?? key)

/** @param {{rule?: any, rules: any[], filter: string, onClose: () => void, onRule: (rule: any) => void}} props */
export function RuleForm({ rule, rules, filter, onClose, onRule }) {
  const { schemas, problem } = useSchemas()
  const next = Math.max(0, ...rules.map((one) => one.priority)) + 1
  const [form, setForm] = useState(/** @type {any} */ (rule ? Object.fromEntries(Object.entries(rule).map(([key, value]) => [key, written(value)]))
    : { priority: String(next), action: 'accept', direction: 'both' }))
  const properties = schemas?.Rule.properties ?? {}
  const body = schemas ? built(form, properties, schemas) : null
  const others = rules.filter((one) => one !== rule)
  const { problems, done } = useCheck(['filters', filter], body && { rules: [body] })
  /** @param {string} key */
  const told = (key) => ({ problems: problems[`rules[0].${key}`] ?? problems[`rules[${body?.priority}].${key}`] ?? [] })
  const taken = others.some((one) => String(one.priority) === form.priority.trim()) ? [t('Another rule has it.')] : []
  const known = Object.keys(properties)
  const rest = known.filter((key) => !OWN.includes(key) && !USUAL.includes(key))
  const general = Object.entries(problems).filter(([key]) => !known.some((one) => key.endsWith(`].${one}`))).flatMap(([, one]) => one)
  const save = () => {
    if (!body || taken.length || !done || Object.keys(problems).length || !/^\d+$/.test(form.priority.trim())) return
    onRule({ ...body, priority: Number(form.priority) })
  }
  return html`<${Dialog} title=${rule ? t('Change rule {n}', { n: rule.priority }) : t('Add rule')} wide onClose=${onClose} onSubmit=${save} actions=${html`
      <${Button} onClick=${onClose}>${t('Cancel')}<//><${Button} type="submit" kind="primary">${t('OK')}<//>`}>
    <div class="columns">
      <${Text} label=${t('Priority')} required value=${form.priority} problems=${[...taken, ...told('priority').problems]} onValue=${(/** @type {string} */ priority) => setForm({ ...form, priority })} help=${t('The lowest number is tried first.')} />
      <${Choice} label=${t('Direction')} value=${form.direction} ...${told('direction')} onValue=${(/** @type {string} */ direction) => setForm({ ...form, direction })}
        options=${[{ value: 'both', label: t('Bidirection') }, { value: 'ingress', label: t('Ingress') }, { value: 'egress', label: t('Egress') }]} />
      <${Choice} label=${t('Action')} value=${form.action} onValue=${(/** @type {string} */ action) => setForm({ ...form, action })}
        options=${[{ value: 'accept', label: t('accept: copy what matches') }, { value: 'reject', label: t('reject: leave it out') }]} />
    </div>
    ${schemas && html`<div class="columns">${USUAL.map((key) => html`<${Labelled} name=${key} ...${{ form, onForm: setForm, told }} />`)}</div>
    <details open=${rest.some((key) => form[key] || told(key).problems.length)}><summary>${t('More: VLAN, ethertype, MAC addresses, flags, lengths')}</summary>
      <div class="columns"><${Fields} keys=${rest} ...${{ properties, schemas, form, onForm: setForm, told }} /></div></details>`}
    <p class="quiet note">${t('What is left empty matches anything. Several values are separated by commas.')}</p>
    <${Problem} of=${problem} />
    ${general.map((one) => html`<${Notice} kind="bad">${one}<//>`)}
  <//>`
}

const PLACEHOLDERS = /** @type {Record<string, string>} */ ({ protocol: 'tcp', source: '192.168.0.161/32', destination: '192.168.0.230/32', source_ports: '1000-2000', destination_ports: '80, 443' })

/** One of the documents' own fields. @param {any} props */
function Labelled({ name, form, onForm, told }) {
  const set = (/** @type {string} */ value) => onForm({ ...form, [name]: value })
  const label = ruleLabel(name)
  if (name === 'family') return html`<${Choice} label=${label} value=${form.family ?? ''} ...${told('family')} onValue=${set} options=${[{ value: '', label: t('any') }, { value: 'ipv4', label: 'IPv4' }, { value: 'ipv6', label: 'IPv6' }]} />`
  return html`<${Text} label=${label} value=${form[name] ?? ''} placeholder=${PLACEHOLDERS[name]} ...${told(name)} onValue=${set} />`
}
