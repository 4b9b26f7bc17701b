// @ts-check
// Values that several parts of the page look at.
import { useEffect, useState } from './html.js'

/** @template T */
export class Store {
  /** @param {T} value */
  constructor(value) {
    this.value = value
    /** @type {Set<() => void>} */
    this.watchers = new Set()
  }

  /** Change some of it. @param {Partial<T>} changes */
  set(changes) {
    this.value = { ...this.value, ...changes }
    for (const told of [...this.watchers]) told()
  }

  /** Its value, in a component that is drawn again with each change. @returns {T} */
  use() {
    const [, draw] = useState(0)
    useEffect(() => {
      const told = () => draw((/** @type {number} */ n) => n + 1)
      this.watchers.add(told)
      return () => void this.watchers.delete(told)
    }, [])
    return this.value
  }
}
