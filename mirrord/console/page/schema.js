// @ts-check
// The API's own description: which kinds of source and destination there are, and which keys each has.
import { ask, at } from './api.js'
import { useEffect, useState } from './html.js'

const AGAIN = 1000 // ms

/** @type {Promise<any> | undefined} */
let asked

/** Every schema by name; undefined until it is there, and why it is not. A daemon that is away is asked again. */
export function useSchemas() {
  const [told, setTold] = useState(/** @type {{schemas?: any, problem?: any}} */ ({}))
  useEffect(() => {
    if (told.schemas) return undefined
    let gone = false
    asked ??= ask('GET', at('openapi.json')).then(({ body }) => body.components.schemas)
    asked.then((schemas) => gone || setTold({ schemas }), (problem) => {
      asked = undefined
      setTimeout(() => gone || setTold({ problem }), AGAIN)
    })
    return () => { gone = true }
  }, [told])
  return told
}

/** The kinds that a key may be of, by their `type`. @param {any} schemas @param {'source' | 'destination'} key */
export function kindsOf(schemas, key) {
  const refs = schemas.Session.properties[key].oneOf ?? []
  const found = refs.map((/** @type {any} */ one) => schemas[one.$ref.split('/').pop()])
  return new Map(found.map((/** @type {any} */ one) => [one.properties.type.const, one]))
}

/** What a key's value is: the words it may be, or 'list', 'table' (with its schema), 'text'. @param {any} property @param {any} schemas */
export function shapeOf(property, schemas) {
  const forms = property.anyOf ?? [property]
  const table = forms.find((/** @type {any} */ one) => one.$ref)
  if (table) return { shape: 'table', table: schemas[table.$ref.split('/').pop()] }
  const words = forms.flatMap((/** @type {any} */ one) => (one.type === 'boolean' ? ['true', 'false'] : one.enum ?? []))
  if (words.length && forms.every((/** @type {any} */ one) => one.enum || one.type === 'boolean' || one.type === 'null')) return { shape: 'words', words }
  return { shape: forms.some((/** @type {any} */ one) => one.type === 'array') ? 'list' : 'text' }
}
