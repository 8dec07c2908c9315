/** Network addresses and ranges of them, as text and as bytes; IPv4 and IPv6 alike. */
import { isIP } from 'node:net';

export interface Subnet {
  /** 4 or 16 bytes, zero after the prefix. */
  address: Buffer;
  prefixLength: number;
}

/** Undefined when it is no network address. */
export function parseAddress(text: string): Buffer | undefined {
  const version = text.includes('%') ? 0 : isIP(text);
  if (version === 4) return Buffer.from(text.split('.').map(Number));
  if (version === 0) return undefined;
  // What may stand at the end of an IPv6 address: an IPv4 one.
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  const [head = '', tail] = (dotted === null ? text : withoutDots(dotted)).split('::');
  const left = groupsOf(head);
  const right = groupsOf(tail ?? '');
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => 0);
  const bytes = Buffer.alloc(16);
  [...left, ...zeros, ...right].forEach((group, index) => bytes.writeUInt16BE(group, index * 2));
  return bytes;
}

/** `10.0.0.0/8`, or one address. Undefined when it is neither, or has bits after the prefix. */
export function parseSubnet(text: string): Subnet | undefined {
  const [head = '', length, ...rest] = text.split('/');
  const address = parseAddress(head);
  if (address === undefined || rest.length > 0) return undefined;
  const bits = address.length * 8;
  if (length !== undefined && !/^\d{1,3}$/.test(length)) return undefined;
  const prefixLength = length === undefined ? bits : Number(length);
  if (prefixLength > bits || !masked(address, prefixLength).equals(address)) return undefined;
  return { address, prefixLength };
}

/** Whether a text is a range of that version, with a prefix of `shortest` to `longest` bits. */
export function isSubnet(text: string, version: 4 | 6, shortest: number, longest: number): boolean {
  const subnet = parseSubnet(text);
  if (subnet === undefined || isIpv4(subnet) !== (version === 4)) return false;
  return subnet.prefixLength >= shortest && subnet.prefixLength <= longest;
}

export function formatAddress(address: Uint8Array): string {
  const bytes = Buffer.from(address);
  if (bytes.length === 4) return bytes.join('.');
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2));
  const full = groups.map((group) => group.toString(16)).join(':');
  // The first of the longest runs of zeros is left out, when it is longer than one.
  const runs = [...full.matchAll(/(?<![0-9a-f])0(?::0)+(?![0-9a-f])/g)];
  const longest = runs.reduce((best, [run]) => (run.length > best.length ? run : best), '');
  if (longest === '') return full;
  const at = runs.find(([run]) => run === longest)?.index ?? 0;
  const before = full.slice(0, at).replace(/:$/, '');
  return `${before}::${full.slice(at + longest.length).replace(/^:/, '')}`;
}

export function formatSubnet({ address, prefixLength }: Subnet): string {
  return `${formatAddress(address)}/${prefixLength}`;
}

export function isIpv4({ address }: Subnet): boolean {
  return address.length === 4;
}

function masked(address: Buffer, prefixLength: number): Buffer {
  return Buffer.from(
    address.map((byte, index) => {
      const kept = Math.min(8, Math.max(0, prefixLength - index * 8));
      return byte & (0xff << (8 - kept));
    }),
  );
}

function withoutDots([, head = '', ...bytes]: RegExpExecArray): string {
  const [a = 0, b = 0, c = 0, d = 0] = bytes.map(Number);
  return `${head}${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
}

function groupsOf(text: string): number[] {
  return text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16));
}
