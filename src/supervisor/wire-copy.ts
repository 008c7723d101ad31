// Keeps structured clone from copying more bytes than a message holds.

const depthMax = 6;

/**
 * Copies byte views that show a part of a larger buffer. Structured clone copies the whole buffer behind a view,
 * and slices of the network's 64 KiB read buffers are the common case. The message itself is left as it is.
 */
export function compact(value: unknown, transfer: readonly ArrayBuffer[] | undefined, depth = 0): unknown {
  if (typeof value !== 'object' || value === null || depth > depthMax) return value;
  if (ArrayBuffer.isView(value)) return compactView(value, transfer);
  if (Array.isArray(value)) {
    let copy: unknown[] | undefined;
    for (let i = 0; i < value.length; i++) {
      const item = compact(value[i], transfer, depth + 1);
      if (item === value[i]) continue;
      copy ??= value.slice();
      copy[i] = item;
    }
    return copy ?? value;
  }
  if (value instanceof Map) {
    let copy: Map<unknown, unknown> | undefined;
    for (const [key, item] of value) {
      const small = compact(item, transfer, depth + 1);
      if (small === item) continue;
      copy ??= new Map(value);
      copy.set(key, small);
    }
    return copy ?? value;
  }
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return value;
  let copy: Record<string, unknown> | undefined;
  for (const key in value) {
    const item = (value as Record<string, unknown>)[key];
    if (typeof item !== 'object' || item === null) continue;
    const small = compact(item, transfer, depth + 1);
    if (small === item) continue;
    copy ??= { ...(value as Record<string, unknown>) };
    copy[key] = small;
  }
  return copy ?? value;
}

function compactView(view: ArrayBufferView, transfer: readonly ArrayBuffer[] | undefined): ArrayBufferView {
  const { buffer } = view;
  if (!(view instanceof Uint8Array) || view.byteLength === buffer.byteLength) return view;
  if (buffer instanceof SharedArrayBuffer || transfer?.includes(buffer as ArrayBuffer)) return view;
  // Not `slice`: that of a Buffer shares its memory.
  return new Uint8Array(view);
}

/** Whether a message holds `buffer` or a view of it. */
export function mentions(value: unknown, buffer: ArrayBuffer, depth = 0): boolean {
  if (typeof value !== 'object' || value === null || depth > depthMax) return false;
  if (value === buffer) return true;
  if (ArrayBuffer.isView(value)) return value.buffer === buffer;
  const items = value instanceof Map ? value.values() : Object.values(value);
  for (const item of items) if (mentions(item, buffer, depth + 1)) return true;
  return false;
}
