// @ts-check
// The page's frame: the way in, the places, and what is told on all of them.
import { lock, unlock } from './api.js'
import { html, render, useEffect, useState } from './html.js'
import { follow, live } from './live.js'
import { Button, Icon, Notice, Said, hash } from './parts.js'
import { about, openAnother } from './about.js'
import { language, speak, t } from './words.js'
import { Shown, fetchAll, places } from './places.js'

const THEME = 'mirrord-theme'
const AFTER = 200 // ms: what is seen first is drawn before

/** @param {string | null} theme */
function paint(theme) {
  if (theme) localStorage.setItem(THEME, theme)
  document.documentElement.dataset.theme = localStorage.getItem(THEME) ?? 'auto'
}

function useHash() {
  const [at, setAt] = useState(location.hash)
  useEffect(() => {
    const moved = () => setAt(location.hash)
    addEventListener('hashchange', moved)
    return () => removeEventListener('hashchange', moved)
  }, [])
  return at.replace(/^#\/?/, '').split('/').filter(Boolean).map(plain)
}

/** A part of the address as a person reads it; what is no encoding stays as it is. @param {string} part */
function plain(part) {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

function App() {
  const [place = 'overview', ...rest] = useHash()
  const [, again] = useState(0)
  const { problem } = live.use()
  const { version, read_only, cluster, socket } = about.use()
  const found = places().find((one) => one.name === place) ?? places()[0]
  useEffect(() => {
    document.title = `${found.title()} - mirrord`
    const main = document.querySelector('main')
    main?.scrollTo(0, 0)
    if (document.activeElement === document.body) main?.focus() // what had the focus is gone with the place before
    document.querySelector('nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' }) // the menu of a narrow window is a line
  }, [location.hash])
  /** @param {() => unknown} change */
  const set = async (change) => { await change(); again((/** @type {number} */ n) => n + 1) }
  const theme = document.documentElement.dataset.theme ?? 'auto'
  return html`
    <a class="skip" href="#main" onClick=${(/** @type {Event} */ event) => { event.preventDefault(); document.getElementById('main')?.focus() }}>${t('To the content')}</a>
    <nav aria-label=${t('Pages')}>
      <div class="brand"><img src="/icon.svg" alt="" width="24" height="24" />mirrord</div>
      <ul>${places().map((one) => html`<li key=${one.name}><a href=${hash(one.name)} aria-current=${one === found ? 'page' : undefined}>${one.title()}</a></li>`)}</ul>
      <div class="settings">
        ${cluster && html`<p class="whole">${t('the whole cluster')}</p>`}
        ${read_only && html`<p class="readonly"><${Icon} name="lock" />${t('read only')}</p>`}
        <label>${t('Language')} <select value=${language()} onChange=${(/** @type {any} */ event) => set(() => speak(event.target.value))}>
          <option value="en">English</option><option value="zh">中文</option></select></label>
        <label>${t('Colours')} <select value=${theme} onChange=${(/** @type {any} */ event) => set(() => paint(event.target.value))}>
          <option value="auto">${t('as the system')}</option><option value="light">${t('light')}</option><option value="dark">${t('dark')}</option></select></label>
        <${Button} small onClick=${openAnother}>${t('Another window')}<//>
        <p class="version" title=${socket}>mirrord ${version}</p>
      </div>
    </nav>
    <main id="main" tabindex="-1">
      ${problem && html`<div class="offline" role="alert"><${Notice} kind="bad">${problem.status === 0 ? t('mirrorctl console does not run any more: start it again, and open the address that it prints.')
        : problem.code === 'unreachable' ? cluster ? t('The agent does not answer: this page comes back by itself when it does.') : t('The daemon does not answer: this page comes back by itself when it does.') : problem.message}<//></div>`}
      <${Shown} key=${found.name} place=${found} rest=${rest} />
    </main>
    <${Said} />`
}

/** @param {{problem: any}} props */
const Locked = ({ problem }) => html`<main class="locked"><img src="/icon.svg" alt="" width="48" height="48" />
  <h1>${t('This window has no key')}</h1>
  ${problem && html`<${Notice} kind="bad">${problem.code === 'wrong_token' ? t('This link was used before, or is not of this console: it opens one window, once.') : problem.message}<//>`}
  <p>${t('Run this on the host, and open the address that it prints:')}</p><pre><code>mirrorctl console</code></pre>
  <p>${t('A link opens one window, once. For a second one press "Another window" in the first.')}</p></main>`

async function begin() {
  paint(null)
  await speak(language())
  const app = /** @type {HTMLElement} */ (document.getElementById('app'))
  /** @param {any} problem */
  const shut = (problem) => { render(html`<${Locked} problem=${problem} />`, app); document.title = 'mirrord' }
  addEventListener('locked', () => shut(null))
  addEventListener('hashchange', () => location.hash.startsWith('#token=') && location.reload())
  try {
    const told = await unlock()
    if (told === null) return shut(null)
    about.set(told)
  } catch (problem) {
    lock()
    return shut(problem)
  }
  if (!location.hash.startsWith('#/')) history.replaceState(null, '', '#/overview')
  render(html`<${App} />`, app)
  performance.mark('drawn') // the menu and the first place: bench/console.py tells when
  void follow()
  setTimeout(() => void fetchAll().catch(() => {}), AFTER) // what did not come is fetched when it is gone to
}

void begin()
