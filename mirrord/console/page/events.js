// @ts-check
// Server-sent events (WHATWG HTML, section 9.2) of an answer: not by EventSource, which sends no header with a key.

/** Each event's name and what it says ('' and null: nothing, yet), until the stream ends. @param {Response} response @returns {AsyncGenerator<[string, any]>} */
export async function* events(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader()
  const decoder = new TextDecoder()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const blocks = (rest + decoder.decode(value, { stream: true })).split('\n\n')
    rest = blocks.pop() ?? ''
    for (const block of blocks) {
      const fields = new Map(block.split('\n').map((line) => /** @type {[string, string]} */ (line.split(/: (.*)/s, 2))))
      const [name, data] = [fields.get('event'), fields.get('data')]
      yield name && data ? [name, JSON.parse(data)] : ['', null] // a comment: all is as it was
    }
  }
}
