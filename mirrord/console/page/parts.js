// @ts-check
// What the pages are made of: buttons, fields, dialogs, states, notices.
import { Fragment, html, useEffect, useMemo, useRef, useState } from './html.js'
import { Store } from './store.js'
import { t } from './words.js'

let serial = 0
/** A name for an element that others refer to. @param {string} kind */
const useName = (kind) => useMemo(() => `${kind}-${++serial}`, [])

/** @param {{kind?: string, small?: boolean, busy?: boolean, children?: any, [name: string]: any}} props */
export function Button({ kind = '', small = false, busy = false, children, ...rest }) {
  return html`<button type="button" class="${kind} ${small ? 'small' : ''}" aria-disabled=${busy || undefined} ...${rest}
    onClick=${busy ? undefined : rest.onClick}>${children}</button>`
}

/** A link that looks like one of the page's places. @param {{to: string[], children?: any, [name: string]: any}} props */
export const Link = ({ to, children, ...rest }) => html`<a href=${hash(...to)} ...${rest}>${children}</a>`

/** @param {...string} parts */
export const hash = (...parts) => `#/${parts.map(encodeURIComponent).join('/')}`

/**
 * A control with its label, what is wrong with it, and what is doubtful.
 * @param {{label: string, required?: boolean, help?: string, problems?: string[], warnings?: string[],
 *          control: (names: Record<string, any>) => any}} props
 */
export function Field({ label, required = false, help = '', problems = [], warnings = [], control }) {
  const name = useName('field')
  const told = help || problems.length || warnings.length ? `${name}-told` : undefined
  return html`<div class="field ${problems.length ? 'wrong' : ''}">
    <label for=${name}>${label}${required && html`<span class="required" aria-hidden="true"> *</span>`}</label>
    ${control({ id: name, 'aria-describedby': told, 'aria-invalid': problems.length ? 'true' : undefined, 'aria-required': required || undefined })}
    <div id=${told} class="told" aria-live="polite">
      ${problems.map((one) => html`<p class="bad"><${Icon} name="bad" />${one}</p>`)}
      ${warnings.map((one) => html`<p class="warn"><${Icon} name="warn" />${one}</p>`)}
      ${help && !problems.length && html`<p>${help}</p>`}
    </div>
  </div>`
}

/** A line of text. @param {{value: any, onValue: (value: string) => void, options?: {value: string, label?: string}[], [name: string]: any}} props */
export function Text({ value, onValue, options, label, required, help, problems, warnings, ...rest }) {
  const list = useName('list')
  return html`<${Field} ...${{ label, required, help, problems, warnings }} control=${(/** @type {any} */ names) => html`<${Fragment}>
    <input type="text" autocomplete="off" spellcheck=${false} value=${value ?? ''} list=${options ? list : undefined}
      onInput=${(/** @type {any} */ event) => onValue(event.target.value)} ...${names} ...${rest} />
    ${options && html`<datalist id=${list}>${options.map((one) => html`<option value=${one.value}>${one.label ?? ''}</option>`)}</datalist>`}
  <//>`} />`
}

/** One of several. @param {{value: any, onValue: (value: string) => void, options: {value: string, label: string, group?: string}[], [name: string]: any}} props */
export function Choice({ value, onValue, options, label, required, help, problems, warnings, ...rest }) {
  return html`<${Field} ...${{ label, required, help, problems, warnings }} control=${(/** @type {any} */ names) => html`
    <select onChange=${(/** @type {any} */ event) => onValue(event.target.value)} ...${names} ...${rest}>
      ${options.map((one) => html`<option key=${one.value} value=${one.value} selected=${one.value === (value ?? '')}>${one.label}</option>`)}
    </select>`} />`
}

/** Yes or no. @param {{value: boolean, onValue: (value: boolean) => void, label: string, help?: string}} props */
export function Check({ value, onValue, label, help = '', ...rest }) {
  const name = useName('check')
  return html`<div class="field check">
    <input type="checkbox" id=${name} checked=${value} aria-describedby=${help ? `${name}-told` : undefined}
      onChange=${(/** @type {any} */ event) => onValue(event.target.checked)} ...${rest} />
    <label for=${name}>${label}</label>
    ${help && html`<div class="told" id="${name}-told"><p>${help}</p></div>`}
  </div>`
}

/**
 * A dialog in front of the page, which begins at its first field, or at what leaves all as it is. Escape closes it, and the
 * focus goes back to where it was.
 * @param {{title: string, onClose: () => void, wide?: boolean, children?: any, actions?: any, onSubmit?: () => void}} props
 */
export function Dialog({ title, onClose, wide = false, children, actions, onSubmit }) {
  const element = useRef(/** @type {any} */ (null))
  const name = useName('dialog')
  useEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement)
    element.current.showModal()
    element.current.querySelector('footer button')?.focus()
    return () => before?.isConnected && before.focus()
  }, [])
  const begun = useRef(false)
  useEffect(() => {
    const field = begun.current ? null : element.current.querySelector('.body :is(input, select, textarea)') // it may come later
    begun.current ||= field !== null
    field?.focus()
  })
  return html`<dialog ref=${element} class=${wide ? 'wide' : ''} aria-labelledby=${name}
      onCancel=${(/** @type {Event} */ event) => { event.preventDefault(); onClose() }}>
    <form method="dialog" novalidate onSubmit=${(/** @type {SubmitEvent} */ event) => { event.preventDefault(); if (!event.submitter?.ariaDisabled) onSubmit?.() }}>
      <header><h2 id=${name}>${title}</h2><button type="button" class="plain" aria-label=${t('Close')} onClick=${onClose}><${Icon} name="close" /></button></header>
      <div class="body">${children}</div>
      <footer>${actions}</footer>
    </form>
  </dialog>`
}

/**
 * Say what will happen, and do it when that is wanted.
 * `ahead` is what the daemon says of it beforehand.
 * @param {{title: string, does: any[], ahead?: any, action: string, danger?: boolean, onClose: () => void, run: () => Promise<any>}} props
 */
export function Confirm({ title, does, ahead, action, danger = false, onClose, run }) {
  const { busy, problem, attempt } = useAttempt()
  const go = () => attempt(async () => { await run(); onClose() })
  return html`<${Dialog} title=${title} onClose=${onClose} onSubmit=${go} actions=${html`
      <${Button} onClick=${onClose}>${t('Cancel')}<//>
      <${Button} type="submit" kind=${danger ? 'danger' : 'primary'} busy=${busy}>${action}<//>`}>
    <ul class="does">${does.filter(Boolean).map((one) => html`<li>${one}</li>`)}</ul>
    ${ahead}
    <${Problem} of=${problem} />
  <//>`
}

/** Does something once at a time, and keeps what went wrong. */
export function useAttempt() {
  const [busy, setBusy] = useState(false)
  const [problem, setProblem] = useState(/** @type {any} */ (null))
  /** @param {() => Promise<any>} run */
  async function attempt(run) {
    if (busy) return
    setBusy(true)
    setProblem(null)
    try {
      await run()
    } catch (error) {
      setProblem(error)
    } finally {
      setBusy(false)
    }
  }
  return { busy, problem, attempt, setProblem }
}

/** What went wrong, in words. @param {{of: any}} props */
export function Problem({ of }) {
  if (!of) return null
  const stale = of.code === 'stale'
  return html`<div class="notice bad" role="alert"><${Icon} name="bad" />
    <div>${stale && html`<strong>${t('Somebody else changed it meanwhile.')}</strong> `}
      ${stale ? t('Nothing of yours was saved. Close or discard it, look at what it is now, and change it again.') : of.message}</div></div>`
}

/** @param {{kind?: string, children?: any}} props */
export const Notice = ({ kind = '', children }) => html`<div class="notice ${kind}">${kind && html`<${Icon} name=${kind} />`}<div>${children}</div></div>`

/** A state by a sign and a word. @param {{kind: string, children?: any, title?: string}} props */
export const State = ({ kind, children, title }) => html`<span class="state ${kind}" title=${title}><${Icon} name=${kind} />${children}</span>`

const PATHS = /** @type {Record<string, string>} */ ({
  ok: 'M3 8.5 6.5 12 13 4.5',
  warn: 'M8 2 15 14H1zM8 6.5v3.5M8 11.8v.4',
  bad: 'M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13M5.5 5.5l5 5m0-5-5 5',
  off: 'M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11',
  wait: 'M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 4.5V8l2.5 2',
  close: 'M3.5 3.5l9 9m0-9-9 9',
  up: 'M8 13V3M4 7l4-4 4 4',
  down: 'M8 3v10M4 9l4 4 4-4',
  lock: 'M4 7h8v6.5H4zM5.5 7V5a2.5 2.5 0 0 1 5 0v2',
  grip: 'M6 3.5v.1M6 8v.1M6 12.5v.1M10 3.5v.1M10 8v.1M10 12.5v.1',
})

/** @param {{name: string}} props */
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${PATHS[name] ?? ''} /></svg>`

/** Nothing is there, and what to do about it. @param {{children?: any}} props */
export const Empty = ({ children }) => html`<div class="empty">${children}</div>`

/** The heading of a page, with what can be done on it. @param {{title: any, children?: any, lead?: any}} props */
export const Head = ({ title, children, lead }) => html`<div class="head"><div><h1>${title}</h1>${lead && html`<p>${lead}</p>`}</div><div class="actions">${children}</div></div>`

const said = new Store({ text: '', at: 0 })

/** Tell that something was done. @param {string} text */
export const say = (text) => said.set({ text, at: Date.now() })

/** What was last done; it goes away by itself. */
export function Said() {
  const { text, at } = said.use()
  useEffect(() => {
    const timer = setTimeout(() => said.set({ text: '' }), 6000)
    return () => clearTimeout(timer)
  }, [at])
  return html`<div class="said" role="status">${text && html`<p><${Icon} name="ok" />${text}</p>`}</div>`
}
