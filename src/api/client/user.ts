// The user that an image or a caller names, looked up in the image's passwd and group files.
import { fail } from '../model/errors.ts';

export interface ImageUser {
  uid: number;
  gid: number;
  /** The primary group first. */
  additionalGids: readonly number[];
}

/** Text of a file in the image, or undefined when it has none. */
export type ReadImageFile = (path: string) => Promise<string | undefined>;

const idMax = 0xffff_fffe;

/**
 * `user` is `name|uid[:group|gid]`, empty for root.
 * Throws `not-found` for names that the image does not have, `invalid-argument` for malformed ids.
 */
export async function lookUpUser(user: string, read: ReadImageFile): Promise<ImageUser> {
  const [who = '', group = '', ...more] = user.split(':');
  if (more.length > 0) throw fail('invalid-argument', `user "${user}" is not user[:group]`);
  const passwd = fields(await read('/etc/passwd'));
  const groups = fields(await read('/etc/group'));

  const wanted = who === '' ? '0' : who;
  const uidGiven = numeric(wanted);
  const entry = passwd.find((line) =>
    uidGiven === undefined ? line[0] === wanted : numeric(line[2]) === uidGiven,
  );
  if (uidGiven === undefined && entry === undefined) throw fail('not-found', `user "${wanted}" in the image`);
  const uid = uidGiven ?? numeric(entry?.[2]);
  if (uid === undefined) throw fail('invalid-argument', `user "${wanted}": the image gives it no usable id`);

  let gid = numeric(entry?.[3]) ?? 0;
  if (group !== '') {
    const given = numeric(group) ?? numeric(groups.find((line) => line[0] === group)?.[2]);
    if (given === undefined) throw fail('not-found', `group "${group}" in the image`);
    gid = given;
  }
  const name = entry?.[0];
  const member = groups
    .filter((line) => name !== undefined && (line[3] ?? '').split(',').includes(name))
    .map((line) => numeric(line[2]))
    .filter((id) => id !== undefined);
  return { uid, gid, additionalGids: [...new Set([gid, ...(group === '' ? member : [])])] };
}

function fields(text: string | undefined): string[][] {
  return (text ?? '')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(':'));
}

function numeric(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  if (id > idMax) throw fail('invalid-argument', `id ${text} is over ${idMax}`);
  return id;
}
