"use strict";
// Cards that are not drawn lie in the page as packed texts (xaikit/report/packing.py): deflated, thirteen bits in two
// letters. They are unpacked one text at a time, at once, since a page that is printed cannot wait.
const unpacked = (() => {
  const DIGITS = 92, BITS = 13;
  const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

  // The letters are those from "!" to "~" without "&" and "<".
  const digit = (code) => code - 33 - (code > 38) - (code > 60);

  const bytesOf = (text) => {
    const bytes = new Uint8Array(Math.floor((text.length / 2) * BITS / 8));
    let held = 0, count = 0, place = 0;
    for (let i = 0; i + 1 < text.length; i += 2) {
      held = (held << BITS) | (digit(text.charCodeAt(i)) * DIGITS + digit(text.charCodeAt(i + 1)));
      for (count += BITS; count >= 8 && place < bytes.length; place++) {
        count -= 8;
        bytes[place] = held >> count;
      }
      held &= (1 << count) - 1;
    }
    return bytes;
  };

  // A code by the lengths of its symbols (RFC 1951, 3.2.2): which symbol the next bits are, and how many it has.
  const tableOf = (lengths) => {
    const longest = Math.max(1, ...lengths);
    const cells = new Uint16Array(1 << longest);
    let code = 0;
    for (let length = 1; length <= longest; length++, code <<= 1) {
      for (let symbol = 0; symbol < lengths.length; symbol++) {
        if (lengths[symbol] !== length) continue;
        let cell = 0; // the bits of a code stand in the other order
        for (let bit = 0; bit < length; bit++) cell |= ((code >> bit) & 1) << (length - 1 - bit);
        for (; cell < cells.length; cell += 1 << length) cells[cell] = (symbol << 4) | length;
        code++;
      }
    }
    return { cells, longest };
  };

  const inflated = (source, at, size) => {
    const result = new Uint8Array(size);
    let place = 0, held = 0, count = 0;
    const filled = (n) => {
      for (; count < n; count += 8) held |= source[at++] << count; // beyond the end come zeros
    };
    const bits = (n) => {
      filled(n);
      const value = held & ((1 << n) - 1);
      held >>>= n;
      count -= n;
      return value;
    };
    const symbol = ({ cells, longest }) => {
      filled(longest);
      const cell = cells[held & (cells.length - 1)];
      held >>>= cell & 15;
      count -= cell & 15;
      return cell >> 4;
    };
    const stored = () => {
      at -= count >> 3;
      held = count = 0;
      const n = source[at] | (source[at + 1] << 8);
      result.set(source.subarray(at + 4, at + 4 + n), place);
      place += n;
      at += 4 + n;
    };
    const tables = () => {
      const literals = bits(5) + 257, distances = bits(5) + 1, lengths = new Array(19).fill(0);
      for (let i = 0, n = bits(4) + 4; i < n; i++) lengths[ORDER[i]] = bits(3);
      const code = tableOf(lengths), all = [];
      while (all.length < literals + distances) {
        const next = symbol(code);
        if (next < 16) all.push(next);
        else if (next === 16) all.push(...new Array(3 + bits(2)).fill(all.at(-1)));
        else all.push(...new Array(next === 17 ? 3 + bits(3) : 11 + bits(7)).fill(0));
      }
      return [tableOf(all.slice(0, literals)), tableOf(all.slice(literals))];
    };
    const fixed = () => [
      tableOf([...new Array(144).fill(8), ...new Array(112).fill(9), ...new Array(24).fill(7), ...new Array(8).fill(8)]),
      tableOf(new Array(30).fill(5)),
    ];
    for (let last = 0; !last;) {
      last = bits(1);
      const kind = bits(2);
      if (kind === 0) {
        stored();
        continue;
      }
      const [literals, distances] = kind === 1 ? fixed() : tables();
      for (let next = symbol(literals); next !== 256 && place < size; next = symbol(literals)) {
        if (next < 256) {
          result[place++] = next;
          continue;
        }
        let length = next - 254;
        if (next === 285) length = 258;
        else if (next > 264) {
          const extra = (next - 261) >> 2;
          length = ((4 + ((next - 265) & 3)) << extra) + 3 + bits(extra);
        }
        const step = symbol(distances);
        const extra = step < 4 ? 0 : (step >> 1) - 1;
        const distance = step < 4 ? step + 1 : ((2 + (step & 1)) << extra) + 1 + bits(extra);
        for (const end = place + length; place < end; place++) result[place] = result[place - distance];
      }
    }
    return result;
  };

  return (text) => {
    const bytes = bytesOf(text);
    const size = new DataView(bytes.buffer).getUint32(0);
    return new TextDecoder().decode(inflated(bytes, 4, size));
  };
})();
