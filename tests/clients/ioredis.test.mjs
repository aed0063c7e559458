import { Redis } from "ioredis";
import { suite } from "./ioredis_suite.mjs";

suite("ioredis", Redis);
