// @ts-check
// What the page says, in two languages. English is the key; Chinese is in zh.js, by the documents' own terms.

const LANGUAGE = 'mirrord-language'

export const language = () => localStorage.getItem(LANGUAGE) ?? (navigator.language.startsWith('zh') ? 'zh' : 'en')

/** @type {Record<string, string>} */
let zh = {}

/** Speak a language from now on. @param {string} code */
export async function speak(code) {
  if (code === 'zh') zh = (await import('./zh.js')).zh
  localStorage.setItem(LANGUAGE, code)
  document.documentElement.lang = code === 'zh' ? 'zh-CN' : 'en'
}

/**
 * A text about so many things: `one` of exactly one, otherwise `many`, in which `{n}` is how many. Chinese has no plural: zh.js has `many`.
 * @param {number} n @param {string} one @param {string} many @param {Record<string, any>} [values]
 */
export const plural = (n, one, many, values = {}) => t(n === 1 && language() !== 'zh' ? one : many, { n, ...values })

/**
 * A text in the language that is spoken; `{name}` in it is a value.
 * @param {string} text @param {Record<string, any>} [values]
 */
export function t(text, values = {}) {
  const said = (language() === 'zh' ? zh[text] : undefined) ?? text
  return said.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole))
}
