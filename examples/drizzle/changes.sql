-- What an application does in a week: afterwards _cdc_users holds 10 rows, _cdc_permissions 6, _cdc_roles 2.

BEGIN;

INSERT INTO roles (name) VALUES ('admin'), ('editor');

INSERT INTO permissions (role_id, action)
SELECT id, unnest(ARRAY['users.read', 'users.write']) FROM roles WHERE name = 'admin'
UNION ALL
SELECT id, unnest(ARRAY['posts.read', 'posts.write']) FROM roles WHERE name = 'editor';

INSERT INTO users (email, name, role_id)
SELECT person.email, person.name, roles.id
FROM (
    VALUES
        ('ada@example.com', 'Ada Lovelace', 'admin'),
        ('bjarne@example.com', 'Bjarne Sørensen', 'editor'),
        ('chloe@example.com', 'Chloé O''Brien', 'editor'),
        ('dmitri@example.com', 'Дмитрий Иванов', 'editor'),
        ('eve@example.com', 'Eve "Evie" \ Smith', 'editor')
) AS person (email, name, role)
JOIN roles ON roles.name = person.role
ORDER BY person.email;

COMMIT;

BEGIN;

UPDATE users SET name = 'Ada King' WHERE email = 'ada@example.com';
UPDATE users SET email = 'bjarne.sorensen@example.com' WHERE email = 'bjarne@example.com';
UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'admin') WHERE email = 'chloe@example.com';
UPDATE users SET role_id = NULL WHERE email = 'eve@example.com';
DELETE FROM users WHERE email = 'eve@example.com';

UPDATE permissions SET action = 'posts.publish' WHERE action = 'posts.write';
DELETE FROM permissions WHERE action = 'users.write';

COMMIT;
