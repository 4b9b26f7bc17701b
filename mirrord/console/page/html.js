// @ts-check
// How the page is written: components by preact, in htm's templates, which need no compiler.
import { Fragment, h, render } from './vendor/preact.js'
import htm from './vendor/htm.js'

export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from './vendor/hooks.js'
export { Fragment, render }
export const html = htm.bind(h)
