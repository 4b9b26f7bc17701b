// @ts-check
// Flow networks: devices and addresses that are set aside for copies, and who uses them.
import { about } from '../about.js'
import { built, parts } from '../addresses.js'
import { ask, at } from '../api.js'
import { useCheck } from '../check.js'
import { html, useEffect, useState } from '../html.js'
import { live } from '../live.js'
import { reload, useList } from '../objects.js'
import { Tag, changeable } from '../origin.js'
import { Button, Choice, Confirm, Dialog, Empty, Head, Link, Notice, Problem, Text, say, useAttempt } from '../parts.js'
import { Table } from '../table.js'
import { Ahead } from './mirror_actions.js'
import { t } from '../words.js'

export function Networks() {
  const networks = useList('flow_networks')
  const { read_only, cluster } = about.use()
  const { mirrors } = live.use()
  /** @param {any} one */
  const userOf = (one) => one.in_use?.mirror ?? mirrors?.find((mirror) => mirror.flow_network === one.name)?.name
  const [open, setOpen] = useState(/** @type {{what: string, network?: any} | null} */ (null))
  const close = () => setOpen(null)
  useEffect(() => {
    const timer = setInterval(() => document.hidden || reload('flow_networks').catch(() => {}), 3000) // a search for an address ends
    return () => clearInterval(timer)
  }, [])
  return html`<${Head} title=${t('Flow networks')} lead=${cluster ? t('Addresses and a gateway set aside for copies between hosts; agent.toml of each has its device. One port mirroring uses it, and nothing else does.') : t('A device, addresses and a gateway set aside for copies. One port mirroring uses it, and nothing else does.')}>
      ${!read_only && html`<${Button} kind="primary" onClick=${() => setOpen({ what: 'form' })}>${t('Create flow network')}<//>`}
    <//>
    ${networks?.length === 0 && html`<${Empty}><p>${t('There is no flow network yet. Without one copies leave as the host routes them.')}</p><//>`}
    ${Boolean(networks?.length) && html`<${Table} label=${t('Flow networks')} rows=${networks} rowKey=${(/** @type {any} */ one) => one.name} columns=${[
      { key: 'name', title: t('Name'), cell: (/** @type {any} */ one) => html`${one.name} <${Tag} origin=${one.origin} />`, order: (/** @type {any} */ one) => one.name },
      cluster ? { key: 'vnis', title: 'VNI', cell: (/** @type {any} */ one) => html`<span class="mono">${one.vnis}</span>` } : { key: 'device', title: t('NIC'), cell: (/** @type {any} */ one) => one.device, order: (/** @type {any} */ one) => one.device },
      { key: 'addresses', title: t('IP range'), cell: (/** @type {any} */ one) => html`<span class="mono">${one.addresses}</span>` },
      { key: 'gateway', title: t('Gateway'), cell: (/** @type {any} */ one) => html`<span class="mono">${one.gateway ?? ''}</span>` },
      { key: 'user', title: t('Used by'), cell: (/** @type {any} */ one) => userOf(one) ? html`<${Link} to=${['mirrors', userOf(one)]}>${userOf(one)}<//>` : html`<span class="quiet">${t('nobody')}</span>` },
      ...(cluster ? [] : [{ key: 'address', title: t('Address in use'), cell: (/** @type {any} */ one) => one.in_use?.address ? html`<span class="mono">${one.in_use.address}</span>` : html`<span class="quiet" title=${one.in_use?.reason}>${one.in_use?.reason ?? ''}</span>` }]),
      { key: 'description', title: t('Description'), wide: true, cell: (/** @type {any} */ one) => html`<span title=${one.description}>${one.description}</span>` },
      { key: 'actions', title: t('Operations'), hidden: true, cell: (/** @type {any} */ one) => changeable(one.origin) && html`<div class="actions">
        <${Button} small aria-label=${t('Change {name}', { name: one.name })} onClick=${() => setOpen({ what: 'form', network: one })}>${t('Change')}<//>
        <${Button} small aria-label=${t('Delete {name}', { name: one.name })} onClick=${() => setOpen({ what: 'delete', network: one })}>${t('Delete')}<//></div>` },
    ]} />`}
    ${open?.what === 'form' && html`<${Form} network=${open.network} taken=${(networks ?? []).map((/** @type {any} */ one) => one.name)} onClose=${close} />`}
    ${open?.what === 'delete' && html`<${Confirm} title=${t('Delete {name}', { name: open.network.name })} action=${t('Delete')} danger onClose=${close}
      does=${[!cluster && t('Its addresses are taken off {device}, which other traffic may use again.', { device: open.network.device }), userOf(open.network) && t('{name} uses it: it will be refused.', { name: userOf(open.network) })]} ahead=${html`<${Ahead} method="DELETE" path=${at('flow_networks', open.network.name)} />`}
      run=${async () => { await ask('DELETE', at('flow_networks', open.network.name)); await reload('flow_networks'); say(t('{name} was deleted.', { name: open.network.name })) }} />`}`
}

/** @param {{network?: any, taken: string[], onClose: () => void}} props */
function Form({ network, taken, onClose }) {
  const { cluster } = about.use()
  const sources = useList('sources')
  const fresh = { name: '', description: '', device: '', vnis: '', method: 'range', first: '', last: '', mask: '255.255.255.0', cidr: '', gateway: '' }
  const [form, setForm] = useState(network ? { ...fresh, ...network, gateway: network.gateway ?? '', ...parts(network.addresses) } : fresh)
  const [tag, setTag] = useState('')
  const [tried, setTried] = useState(false)
  const { busy, problem, attempt, setProblem } = useAttempt()
  useEffect(() => {
    if (network) ask('GET', at('flow_networks', network.name)).then((answer) => setTag(answer.tag), setProblem)
  }, [])
  const addressed = form.method === 'cidr' ? form.cidr.trim() : form.first.trim()
  const own = cluster ? form.vnis.trim() && { vnis: form.vnis.trim() } : { device: form.device.trim() }
  const body = { description: form.description, ...own, addresses: built(form), ...(form.gateway.trim() && { gateway: form.gateway.trim() }) }
  const name = form.name.trim()
  const { problems, done } = useCheck(['flow_networks', name || 'new'], body)
  const unseen = Object.entries(problems).filter(([key]) => !['name', 'description', 'device', 'vnis', 'addresses', 'gateway'].includes(key)).flatMap(([, told]) => told)
  const naming = name ? [...(problems.name ?? [])] : tried ? [t('A name is needed.')] : []
  if (!network && taken.includes(name)) naming.push(t('There is one of this name already.'))
  /** @param {string} key @param {any} there */
  const told = (key, there) => (there || tried ? problems[key] ?? [] : [])
  /** @param {string} key */
  const field = (key) => ({ value: form[key], onValue: (/** @type {string} */ one) => setForm({ ...form, [key]: one }) })
  const save = () => {
    setTried(true)
    if (!name || naming.length || (done && Object.keys(problems).length)) return
    attempt(async () => {
      if (network) await ask('PATCH', at('flow_networks', network.name), { name, gateway: null, ...body }, { 'If-Match': tag })
      else await ask('PUT', at('flow_networks', name), body, { 'If-None-Match': '*' })
      await reload('flow_networks')
      say(network ? t('{name} was changed.', { name }) : t('{name} was created.', { name }))
      onClose()
    })
  }
  const devices = (sources ?? []).filter((/** @type {any} */ one) => one.device && one.kind !== 'loopback')
  return html`<${Dialog} title=${network ? t('Change flow network {name}', { name: network.name }) : t('Create flow network')} onClose=${onClose} onSubmit=${save} actions=${html`
      <${Button} onClick=${onClose}>${t('Cancel')}<//><${Button} type="submit" kind="primary" busy=${busy || (network && !tag)}>${t('OK')}<//>`}>
    <${Text} label=${t('Name')} required problems=${naming} ...${field('name')} />
    <${Text} label=${t('Description')} problems=${problems.description} help=${t('May be left empty.')} ...${field('description')} />
    ${cluster ? html`<${Text} label="VNI" placeholder="5000-5999" problems=${problems.vnis} help=${t('From which each session between two hosts has its own.')} ...${field('vnis')} />` : html`<${Text} label=${t('NIC')} required problems=${told('device', form.device)} help=${t('Copies leave by it; nothing else in the configuration may use it.')} ...${field('device')}
      options=${devices.map((/** @type {any} */ one) => ({ value: one.device, label: [one.kind, one.state, one.mirrored_by.length && t('is mirrored')].filter(Boolean).join(', ') }))} />`}
    <fieldset><legend>${t('Add network segment')}</legend>
      <${Choice} label=${t('Method')} ...${field('method')} options=${[{ value: 'range', label: t('IP range') }, { value: 'cidr', label: 'CIDR' }]} />
      ${form.method === 'cidr' ? html`<${Text} label="CIDR" required placeholder="192.168.29.0/24" problems=${told('addresses', addressed)} help=${addressed && body.addresses !== addressed ? body.addresses : ''} ...${field('cidr')} />`
        : html`<div class="columns">
        <${Text} label=${t('Start IP')} required placeholder="192.168.29.10" problems=${told('addresses', addressed)} ...${field('first')} />
        <${Text} label=${t('End IP')} placeholder="192.168.29.20" ...${field('last')} />
        <${Text} label=${t('Netmask')} required help=${t('or its length')} ...${field('mask')} /></div>`}
      <${Text} label=${t('Gateway')} placeholder="192.168.29.1" problems=${problems.gateway} help=${t('Only needed for collectors that are not on the link.')} ...${field('gateway')} />
    </fieldset>
    ${(addressed ? unseen : []).map((one) => html`<${Notice} kind="bad">${one}<//>`)}
    <${Problem} of=${problem} />
  <//>`
}
