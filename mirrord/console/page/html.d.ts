// What html.js gives, for `make lint`: preact's and htm's own types are in their archives, which packaging/vendored.py fetches for that.
import type { ComponentChildren, VNode } from '../../../build/typescript/vendor/preact.js'

export { Fragment, render } from '../../../build/typescript/vendor/preact.js'
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../../../build/typescript/vendor/hooks.js'
export function html(strings: TemplateStringsArray, ...values: unknown[]): VNode
export type Children = ComponentChildren
