// What the public client of Vercel Blob does with a private store; the addresses of objects lead to VERCEL_BLOB_API_URL.
import assert from 'node:assert/strict';
import * as blob from '@vercel/blob';
import { Agent, setGlobalDispatcher } from 'undici';

const api = process.env.VERCEL_BLOB_API_URL;
// The client makes the address of a private object itself.
setGlobalDispatcher(new Agent().compose((dispatch) => (options, handler) => {
    if (!String(options.origin).endsWith('.private.blob.vercel-storage.com')) return dispatch(options, handler);
    return dispatch({ ...options, origin: api, path: `/objects${options.path}` }, handler);
}));

const options = { access: 'private', addRandomSuffix: false, contentType: 'video/webm' };
const name = 'call/rec 1/small.webm';

const put = await blob.put(name, 'hello', options);
assert.equal(put.pathname, name);
await assert.rejects(blob.put(name, 'again', options), 'it is there already');
await blob.put(name, 'again', { ...options, allowOverwrite: true });
const head = await blob.head(name);
assert.deepEqual([head.size, head.contentType, head.pathname], [5, 'video/webm', name]);
assert.equal((await blob.head(put.url)).etag, head.etag);
const got = await blob.get(name, { access: 'private', useCache: false });
assert.equal(await new Response(got.stream).text(), 'again');
await blob.del(name);
await assert.rejects(blob.head(name), blob.BlobNotFoundError);
assert.equal(await blob.get(name, { access: 'private' }), null);

const large = Buffer.alloc(9 << 20, 7);
large.fill(8, 8 << 20);
await blob.put('left/large.webm', large, { ...options, multipart: true });
const uploader = await blob.createMultipartUploader('by hand.webm', options);
const parts = [await uploader.uploadPart(1, large.subarray(0, 5 << 20)), await uploader.uploadPart(2, large.subarray(5 << 20))];
const whole = await uploader.complete(parts);
assert.equal((await blob.head(whole.pathname)).size, 9 << 20);
const tail = await blob.get(whole.pathname, { access: 'private', headers: { range: `bytes=${(9 << 20) - 3}-${(9 << 20) - 1}` } });
assert.deepEqual([...new Uint8Array(await new Response(tail.stream).arrayBuffer())], [8, 8, 8]);
await assert.rejects(blob.head(name, { token: 'vercel_blob_rw_AbCdEf123_wrong' }), blob.BlobAccessError);
console.log('passed');
