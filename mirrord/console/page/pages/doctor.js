// @ts-check
// What is wrong, and what to do about it.
import { ask, at } from '../api.js'
import { html, useEffect, useState } from '../html.js'
import { Button, Head, Link, Notice, Problem, State, useAttempt } from '../parts.js'
import { t } from '../words.js'

const EVERY = 15_000 // ms: it looks at the whole host

export function Doctor() {
  const [found, setFound] = useState(/** @type {any[] | null} */ (null))
  const { busy, problem, attempt } = useAttempt()
  const look = () => attempt(async () => setFound((await ask('GET', at('doctor'))).body.doctor))
  useEffect(() => {
    look()
    const timer = setInterval(() => document.hidden || look(), EVERY)
    return () => clearInterval(timer)
  }, [])
  return html`<${Head} title=${t('Doctor')} lead=${t('Links, routes, next hops, MTU, shaping, rings, counters, files and the features of the kernel: what is wrong, and what to do.')}>
      <${Button} busy=${busy} onClick=${look}>${t('Look again')}<//><//>
    <${Problem} of=${problem} />
    ${found?.length === 0 && html`<${Notice} kind="ok"><strong>${t('Nothing is wrong.')}</strong><//>`}
    ${found?.map((one) => html`<article class="finding">
      <${State} kind=${one.severity === 'error' ? 'bad' : 'warn'}>${one.severity === 'error' ? t('error') : t('warning')}<//>
      <div><p><strong>${one.problem}</strong></p><p>${one.remedy}</p>
        <p class="quiet">${one.mirror ? html`<${Link} to=${['mirrors', one.mirror]}>${[one.mirror, one.session].filter(Boolean).join('/')}<//>` : t('the host')}${one.source && ` ${one.source}`} · <code>${one.code}</code></p></div>
    </article>`)}`
}
