import { Redis } from "iovalkey";
import { suite } from "./ioredis_suite.mjs";

suite("iovalkey", Redis);
