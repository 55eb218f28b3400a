// Reads arrays of local Zarr stores with zarrita, and prints their type, shape and bytes (base64) as lines of JSON.
import { FileSystemStore } from "@zarrita/storage";
import * as zarr from "zarrita";

for (const [store, path] of JSON.parse(process.argv[2])) {
  const root = zarr.root(new FileSystemStore(store));
  const array = await zarr.open.v3(root.resolve(path), { kind: "array" });
  const { data, shape } = await zarr.get(array);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
  console.log(JSON.stringify({ store, path, dtype: array.dtype, shape, fill: array.attrs._FillValue ?? null, bytes }));
}
